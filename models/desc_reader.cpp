#include "models/desc_reader.h"

#include <array>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/error.h"
#include "models/dequant.h"

namespace sj {
namespace {

std::string shape_text(const std::vector<uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// Slowest dimensions of one element say nothing: {2048} and {2048, 1} are the same vector in GGUF.
std::vector<uint64_t> without_leading_ones(std::vector<uint64_t> shape) {
  while (shape.size() > 1 && shape.front() == 1) shape.erase(shape.begin());
  return shape;
}

bool is_weight_type(DType dtype) {
  switch (dtype) {
    case DType::kI8: case DType::kI16: case DType::kI32: case DType::kI64: case DType::kF64: return false;
    default: return true;
  }
}

/// Tensors that exist beside a text model without changing its logits.
bool has_no_effect(std::string_view name) {
  constexpr std::array<std::string_view, 4> kSuffixes = {".input_scale", ".attn_rot_embd", ".attn_rot_embd.weight", ".rot_embd"};
  constexpr std::array<std::string_view, 3> kPrefixes = {"cls.", "dense_2.", "dense_3."};
  for (std::string_view suffix : kSuffixes)
    if (name.ends_with(suffix)) return true;
  for (std::string_view prefix : kPrefixes)
    if (name.starts_with(prefix)) return true;
  return false;
}

}  // namespace

DescReader::DescReader(const GgufFile& file)
    : file_(file), prefix_(std::string(file.require_string("general.architecture")) + ".") {}

std::string DescReader::key(std::string_view suffix) const { return prefix_ + std::string(suffix); }

uint32_t DescReader::get_u32(std::string_view suffix, uint32_t fallback, uint32_t lo, uint32_t hi) const {
  const uint32_t value = file_.get_u32(key(suffix), fallback);
  if (value < lo || value > hi)
    throw Error(ErrorKind::kBadModel, fmt::format("key {}: expected {}..{}, found {}", key(suffix), lo, hi, value));
  return value;
}

uint32_t DescReader::require_u32(std::string_view suffix, uint32_t lo, uint32_t hi) const {
  return get_u32(suffix, file_.require_u32(key(suffix)), lo, hi);
}

double DescReader::get_positive(std::string_view suffix, double fallback) const {
  const double value = has_key(suffix) ? double(file_.require_f32(key(suffix))) : fallback;
  if (!std::isfinite(value) || value <= 0)
    throw Error(ErrorKind::kBadModel, fmt::format("key {}: expected a positive number, found {}", key(suffix), value));
  return value;
}

double DescReader::require_positive(std::string_view suffix) const {
  return get_positive(suffix, double(file_.require_f32(key(suffix))));
}

WeightRef DescReader::bind(const std::string& name, std::vector<uint64_t> expected) {
  const TensorInfo* info = file_.find_tensor(name);
  if (info == nullptr)
    throw Error(ErrorKind::kBadModel, fmt::format("tensor {} is missing; expected shape {}", name, shape_text(expected)));
  if (without_leading_ones(info->shape) != without_leading_ones(expected))
    throw Error(ErrorKind::kBadModel, fmt::format("tensor {}: expected shape {} (slowest first), found {}", name,
                                                  shape_text(expected), shape_text(info->shape)));
  if (!is_weight_type(info->dtype))
    throw Error(ErrorKind::kBadModel, fmt::format("tensor {}: expected a floating-point or quantised type, found {}", name,
                                                  dtype_name(info->dtype)));
  used_.insert(name);
  WeightRef ref{.tensor = name, .row_begin = 0, .n_rows = 1, .n_cols = expected.back(), .dtype = info->dtype};
  if (expected.size() >= 2) ref.n_rows = expected[expected.size() - 2];
  if (expected.size() >= 3) {
    ref.n_experts = expected[0];
    ref.expert_stride_rows = ref.n_rows;
  }
  return ref;
}

WeightRef DescReader::require_vector(const std::string& name, uint64_t dim) { return bind(name, {dim}); }

std::optional<WeightRef> DescReader::find_vector(const std::string& name, uint64_t dim) {
  if (!has_tensor(name)) return std::nullopt;
  return bind(name, {dim});
}

void DescReader::bind_scale(const std::string& name, uint64_t n_experts) {
  constexpr std::string_view kWeight = ".weight";
  if (!name.ends_with(kWeight)) return;
  const std::string scale = name.substr(0, name.size() - kWeight.size()) + ".scale";
  if (used_.contains(scale)) return;
  const TensorInfo* info = file_.find_tensor(scale);
  if (info == nullptr) return;
  const bool is_one = info->n_elems() == 1;
  scales_.emplace_back(name, bind(scale, {is_one ? 1 : n_experts}));
}

WeightRef DescReader::require_matrix(const std::string& name, uint64_t n_rows, uint64_t n_cols) {
  WeightRef ref = bind(name, {n_rows, n_cols});
  bind_scale(name, 1);
  return ref;
}

std::optional<WeightRef> DescReader::find_matrix(const std::string& name, uint64_t n_rows, uint64_t n_cols) {
  if (!has_tensor(name)) return std::nullopt;
  return require_matrix(name, n_rows, n_cols);
}

WeightRef DescReader::require_experts(const std::string& name, uint64_t n_experts, uint64_t n_rows, uint64_t n_cols) {
  WeightRef ref = bind(name, {n_experts, n_rows, n_cols});
  bind_scale(name, n_experts);
  return ref;
}

std::vector<double> DescReader::read_vector(const WeightRef& vector) const {
  std::vector<float> values(vector.n_cols);
  dequantise(vector.dtype, file_.bytes(file_.require_tensor(vector.tensor)), values.data(), values.size());
  return {values.begin(), values.end()};
}

void DescReader::finish(ModelDesc& desc) {
  for (const TensorInfo& info : file_.tensors()) {
    if (used_.contains(info.name)) continue;
    if (!has_no_effect(info.name))
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("tensor {} is not part of architecture '{}' as implemented; without it results would be wrong",
                              info.name, desc.architecture));
    desc.ignored_tensors.push_back(info.name);
  }
  desc.result_scales = std::move(scales_);
}

}  // namespace sj
