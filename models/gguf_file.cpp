#include "models/gguf_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/gguf_parse.h"
#include "models/mapped_file.h"
#include "models/name_index.h"

namespace sj {
namespace {

constexpr uint64_t kMaxParts = 999;

/// What a split part says about its place; count 0: the file is not split.
struct SplitKeys { uint64_t no = 0, count = 0, n_tensors = 0; };

const GgufValue* find_value(const ParsedGguf& parsed, std::string_view key) {
  for (const auto& [name, value] : parsed.metadata)
    if (name == key) return &value;
  return nullptr;
}

std::optional<uint64_t> as_unsigned(const GgufValue& value) {
  if (const auto* u = std::get_if<uint64_t>(&value)) return *u;
  if (const auto* i = std::get_if<int64_t>(&value); i != nullptr && *i >= 0) return static_cast<uint64_t>(*i);
  return std::nullopt;
}

uint64_t split_key(const ParsedGguf& parsed, const std::string& path, std::string_view key, bool is_required) {
  const GgufValue* value = find_value(parsed, key);
  if (value == nullptr) {
    if (is_required) throw Error(ErrorKind::kBadModel, fmt::format("{}: split part lacks key \"{}\"", path, key), fmt::format("field {}; file {}", key, path));
    return 0;
  }
  const std::optional<uint64_t> n = as_unsigned(*value);
  if (!n) throw Error(ErrorKind::kBadModel, fmt::format("key \"{}\": expected a non-negative integer", key), fmt::format("field {}; file {}", key, path));
  return *n;
}

SplitKeys read_split_keys(const ParsedGguf& parsed, const std::string& path) {
  SplitKeys keys;
  keys.count = split_key(parsed, path, "split.count", false);
  if (keys.count <= 1) return {};
  keys.no = split_key(parsed, path, "split.no", true);
  keys.n_tensors = split_key(parsed, path, "split.tensors.count", true);
  return keys;
}

/// "dir/m-00001-of-00003.gguf" -> "dir/m"; throws unless `path` ends that way for this count.
std::string split_prefix(const std::string& path, uint64_t count) {
  const std::string suffix = fmt::format("-00001-of-{:05}.gguf", count);
  if (path.size() <= suffix.size() || path.compare(path.size() - suffix.size(), suffix.size(), suffix) != 0)
    throw Error(ErrorKind::kBadModel, fmt::format("the file is the first of {} parts, so its name must end in \"{}\"", count, suffix),
                fmt::format("field split.count; file {}", path));
  return path.substr(0, path.size() - suffix.size());
}

std::string found_type(const GgufValue& value) {
  struct Namer {
    std::string operator()(uint64_t v) const { return fmt::format("integer {}", v); }
    std::string operator()(int64_t v) const { return fmt::format("integer {}", v); }
    std::string operator()(double v) const { return fmt::format("float {}", v); }
    std::string operator()(bool v) const { return fmt::format("bool {}", v); }
    std::string operator()(std::string_view v) const { return fmt::format("string \"{}\"", printable(v)); }
    std::string operator()(const GgufArray& v) const { return fmt::format("array of {} {}", v.count, gguf_type_name(v.element_type)); }
  };
  return std::visit(Namer{}, value);
}

}  // namespace

uint64_t TensorInfo::n_elems() const {
  uint64_t n = 1;
  for (const uint64_t dim : shape) n *= dim;
  return n;
}
uint64_t TensorInfo::row_elems() const { return shape.empty() ? 1 : shape.back(); }
uint64_t TensorInfo::n_rows() const { return n_elems() / row_elems(); }

struct GgufFile::Impl {
  std::vector<MappedModelFile> parts;
  std::vector<std::span<const std::byte>> part_bytes;
  std::vector<std::string> part_paths;
  std::string header_only;               // gguf_without_data: what the metadata points into
  bool has_data = true;
  ParsedGguf head;                       // metadata of the first part, tensors of all parts
  NameIndex tensor_names{0};

  auto key_of() const { return [this](uint32_t i) -> std::string_view { return head.metadata[i].first; }; }
  auto tensor_name_of() const { return [this](uint32_t i) -> std::string_view { return head.tensors[i].name; }; }

  /// Builds the tensors' look-up table; throws when a tensor name occurs in two parts.
  void index_names() {
    tensor_names = NameIndex(head.tensors.size());
    for (uint32_t i = 0; i < head.tensors.size(); ++i) {
      const auto first = tensor_names.insert(head.tensors[i].name, i, tensor_name_of());
      if (!first) continue;
      const TensorInfo& a = head.tensors[*first];
      const TensorInfo& b = head.tensors[i];
      throw Error(ErrorKind::kBadModel, fmt::format("tensor \"{}\" is in two split parts: {} and {}", printable(b.name), part_paths[a.part], part_paths[b.part]),
                  fmt::format("field name; file {}", part_paths[b.part]));
    }
  }

  [[noreturn]] void fail_key(std::string_view key, std::string_view what) const {
    const auto at = head.key_index.find(key, key_of());
    const std::string offset = at ? fmt::format("offset {}; ", head.value_offsets[*at]) : std::string();
    throw Error(ErrorKind::kBadModel, fmt::format("metadata key \"{}\": {}", printable(key), what),
                fmt::format("field {}; {}file {}", printable(key), offset, part_paths[0]));
  }
  [[noreturn]] void fail_missing(std::string_view key, std::string_view type) const {
    fail_key(key, fmt::format("the key is missing; expected {}", type));
  }
  [[noreturn]] void fail_type(std::string_view key, std::string_view expected, const GgufValue& found) const {
    fail_key(key, fmt::format("expected {}, found {}", expected, found_type(found)));
  }

  const GgufValue* find(std::string_view key) const {
    const auto i = head.key_index.find(key, key_of());
    return i ? &head.metadata[*i].second : nullptr;
  }

  uint32_t to_u32(std::string_view key, const GgufValue& value) const {
    const std::optional<uint64_t> n = as_unsigned(value);
    if (!n || *n > UINT32_MAX) fail_type(key, "an integer from 0 to 4294967295", value);
    return static_cast<uint32_t>(*n);
  }

  float to_f32(std::string_view key, const GgufValue& value) const {
    const auto* number = std::get_if<double>(&value);
    if (number == nullptr || !std::isfinite(*number) || std::abs(*number) > std::numeric_limits<float>::max())
      fail_type(key, "a finite f32", value);
    return static_cast<float>(*number);
  }
};

GgufFile::GgufFile() : impl_(std::make_unique<Impl>()) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

const std::string& GgufFile::path() const { return impl_->part_paths[0]; }
const std::vector<std::string>& GgufFile::part_paths() const { return impl_->part_paths; }
const std::vector<std::pair<std::string, GgufValue>>& GgufFile::metadata() const { return impl_->head.metadata; }
const std::vector<TensorInfo>& GgufFile::tensors() const { return impl_->head.tensors; }
const GgufValue* GgufFile::find(std::string_view key) const { return impl_->find(key); }

uint64_t GgufFile::size_bytes() const {
  uint64_t n = 0;
  for (const auto& bytes : impl_->part_bytes) n += bytes.size();
  return n;
}

int GgufFile::fd(uint32_t part) const { return part < impl_->parts.size() ? impl_->parts[part].fd() : -1; }

void GgufFile::require_unchanged() const {
  for (const MappedModelFile& part : impl_->parts) part.require_unchanged();
}

uint32_t GgufFile::require_u32(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) impl_->fail_missing(key, "an integer");
  return impl_->to_u32(key, *value);
}

uint32_t GgufFile::get_u32(std::string_view key, uint32_t fallback) const {
  const GgufValue* value = find(key);
  return value == nullptr ? fallback : impl_->to_u32(key, *value);
}

float GgufFile::require_f32(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) impl_->fail_missing(key, "a float");
  return impl_->to_f32(key, *value);
}

float GgufFile::get_f32(std::string_view key, float fallback) const {
  const GgufValue* value = find(key);
  return value == nullptr ? fallback : impl_->to_f32(key, *value);
}

bool GgufFile::get_bool(std::string_view key, bool fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  if (const auto* flag = std::get_if<bool>(value)) return *flag;
  impl_->fail_type(key, "a bool", *value);
}

std::string_view GgufFile::require_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) impl_->fail_missing(key, "a string");
  if (const auto* text = std::get_if<std::string_view>(value)) return *text;
  impl_->fail_type(key, "a string", *value);
}

std::string_view GgufFile::get_string(std::string_view key, std::string_view fallback) const {
  return find(key) == nullptr ? fallback : require_string(key);
}

std::span<const std::string_view> GgufFile::require_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) impl_->fail_missing(key, "an array of strings");
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || array->element_type != kGgufString) impl_->fail_type(key, "an array of strings", *value);
  return array->strings;
}

std::vector<uint32_t> GgufFile::get_u32s(std::string_view key, uint64_t n, uint32_t fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::vector<uint32_t>(n, fallback);
  const auto to_number = [&](const GgufValue& element) -> uint32_t {
    if (const auto* flag = std::get_if<bool>(&element)) return *flag ? 1 : 0;
    return impl_->to_u32(key, element);
  };
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr) return std::vector<uint32_t>(n, to_number(*value));
  const uint64_t element_bytes = gguf_scalar_bytes(array->element_type);
  if (element_bytes == 0) impl_->fail_type(key, "an integer or an array of integers", *value);
  if (array->count != n) impl_->fail_type(key, fmt::format("an integer or an array of exactly {}", n), *value);
  std::vector<uint32_t> out(n);
  for (uint64_t i = 0; i < n; ++i) out[i] = to_number(read_gguf_scalar(array->element_type, array->bytes.data() + i * element_bytes));
  return out;
}

std::vector<float> GgufFile::get_f32s(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || (array->element_type != kGgufF32 && array->element_type != kGgufF64)) impl_->fail_type(key, "an array of f32", *value);
  const uint64_t element_bytes = gguf_scalar_bytes(array->element_type);
  std::vector<float> out(array->count);
  for (uint64_t i = 0; i < array->count; ++i)
    out[i] = impl_->to_f32(key, read_gguf_scalar(array->element_type, array->bytes.data() + i * element_bytes));
  return out;
}

std::vector<int32_t> GgufFile::get_i32s(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  const auto* array = std::get_if<GgufArray>(value);
  const uint64_t element_bytes = array == nullptr ? 0 : gguf_scalar_bytes(array->element_type);
  if (element_bytes == 0) impl_->fail_type(key, "an array of i32", *value);
  std::vector<int32_t> out(array->count);
  for (uint64_t i = 0; i < array->count; ++i) {
    const GgufValue element = read_gguf_scalar(array->element_type, array->bytes.data() + i * element_bytes);
    int64_t number = 0;
    if (const auto* s = std::get_if<int64_t>(&element)) number = *s;
    else if (const auto* u = std::get_if<uint64_t>(&element); u != nullptr && *u <= INT32_MAX) number = static_cast<int64_t>(*u);
    else impl_->fail_key(key, fmt::format("expected an array of i32, found {} as element {}", found_type(element), i));
    if (number < INT32_MIN || number > INT32_MAX) impl_->fail_key(key, fmt::format("expected an array of i32, found {} as element {}", number, i));
    out[i] = static_cast<int32_t>(number);
  }
  return out;
}

const GgufArray* GgufFile::find_array(std::string_view key) const {
  const GgufValue* value = find(key);
  return value == nullptr ? nullptr : std::get_if<GgufArray>(value);
}

const TensorInfo* GgufFile::find_tensor(std::string_view name) const {
  const auto i = impl_->tensor_names.find(name, impl_->tensor_name_of());
  return i ? &impl_->head.tensors[*i] : nullptr;
}

const TensorInfo& GgufFile::require_tensor(std::string_view name) const {
  if (const TensorInfo* info = find_tensor(name)) return *info;
  throw Error(ErrorKind::kBadModel, fmt::format("tensor \"{}\" is missing among the file's {} tensors", printable(name), tensors().size()),
              fmt::format("file {}", path()));
}

bool GgufFile::has_data() const { return impl_->has_data; }

std::span<const std::byte> GgufFile::bytes(const TensorInfo& tensor) const {
  if (!impl_->has_data) throw Error(ErrorKind::kInternal, fmt::format("{}: tensor {} has no data", path(), tensor.name));
  return impl_->part_bytes.at(tensor.part).subspan(tensor.file_offset, tensor.n_bytes);
}

GgufFile gguf_without_data(std::string header, uint64_t file_bytes, const std::string& name) {
  GgufFile file;
  file.impl_->header_only = std::move(header);
  file.impl_->has_data = false;
  file.impl_->part_paths = {name};
  const auto bytes = std::as_bytes(std::span(file.impl_->header_only));
  file.impl_->part_bytes = {bytes};
  file.impl_->head = parse_gguf(bytes, file_bytes, name, 0);
  file.impl_->index_names();
  return file;
}

GgufFile gguf_from_memory(std::span<const std::byte> bytes, const std::string& name) {
  GgufFile file;
  file.impl_->part_paths = {name};
  file.impl_->part_bytes = {bytes};
  file.impl_->head = parse_gguf(bytes, name, 0);
  file.impl_->index_names();
  return file;
}

GgufFile open_gguf(const std::string& path) {
  GgufFile file;
  GgufFile::Impl& impl = *file.impl_;
  const auto add_part = [&](const std::string& part_path) {
    impl.parts.emplace_back(part_path);
    impl.part_paths.push_back(part_path);
    impl.part_bytes.push_back(impl.parts.back().bytes());
    return parse_gguf(impl.part_bytes.back(), part_path, static_cast<uint32_t>(impl.parts.size() - 1));
  };
  impl.head = add_part(path);
  const SplitKeys split = read_split_keys(impl.head, path);
  const auto fail = [](const std::string& part_path, const char* field, std::string what) {
    throw Error(ErrorKind::kBadModel, std::move(what), fmt::format("field {}; file {}", field, part_path));
  };
  if (split.count > kMaxParts) fail(path, "split.count", fmt::format("expected at most {} split parts, found {}", kMaxParts, split.count));
  if (split.no != 0)
    fail(path, "split.no", fmt::format("this is part {} of {}: open the first part, whose name ends in \"-00001-of-{:05}.gguf\"", split.no + 1, split.count, split.count));
  if (split.count > 1) {
    const std::string prefix = split_prefix(path, split.count);
    for (uint64_t i = 1; i < split.count; ++i) {
      const std::string part_path = fmt::format("{}-{:05}-of-{:05}.gguf", prefix, i + 1, split.count);
      ParsedGguf part = add_part(part_path);
      const SplitKeys own = read_split_keys(part, part_path);
      if (own.count != split.count) fail(part_path, "split.count", fmt::format("expected {} parts as in the first part, found {}", split.count, own.count));
      if (own.no != i) fail(part_path, "split.no", fmt::format("expected part index {}, found {}", i, own.no));
      std::move(part.tensors.begin(), part.tensors.end(), std::back_inserter(impl.head.tensors));
    }
    if (impl.head.tensors.size() != split.n_tensors)
      fail(path, "split.tensors.count", fmt::format("expected {} tensors in all parts, found {}", split.n_tensors, impl.head.tensors.size()));
  }
  impl.index_names();
  return file;
}

}  // namespace sj
