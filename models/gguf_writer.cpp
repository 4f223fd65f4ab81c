#include "models/gguf_writer.h"

#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/gguf_parse.h"

namespace sj {
namespace {

template <class T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void append_text(std::string& out, std::string_view text) {
  append(out, uint64_t{text.size()});
  out.append(text);
}

constexpr uint64_t kFixedHeaderBytes = 4 + 4 + 8 + 8;

uint64_t round_up(uint64_t n, uint64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

GgufWriter::GgufWriter(uint32_t alignment) : alignment_(alignment) {
  if (alignment < 8 || alignment > kMaxGgufAlignment || !std::has_single_bit(alignment))
    throw Error(ErrorKind::kUsage, fmt::format("GGUF alignment: expected a power of two from 8 to {}, found {}", kMaxGgufAlignment, alignment));
  if (alignment != 32) put_u32("general.alignment", alignment);
}

void GgufWriter::put_key(std::string_view key, uint32_t type) {
  append_text(keys_, key);
  append(keys_, type);
  ++n_keys_;
}

template <class T>
void GgufWriter::put_scalar(std::string_view key, uint32_t type, T value) {
  put_key(key, type);
  append(keys_, value);
}

template <class T>
void GgufWriter::put_array(std::string_view key, uint32_t type, std::span<const T> values) {
  put_key(key, kGgufArray);
  append(keys_, type);
  append(keys_, uint64_t{values.size()});
  keys_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

void GgufWriter::put_u8(std::string_view key, uint8_t value) { put_scalar(key, kGgufU8, value); }
void GgufWriter::put_u16(std::string_view key, uint16_t value) { put_scalar(key, kGgufU16, value); }
void GgufWriter::put_u32(std::string_view key, uint32_t value) { put_scalar(key, kGgufU32, value); }
void GgufWriter::put_i32(std::string_view key, int32_t value) { put_scalar(key, kGgufI32, value); }
void GgufWriter::put_u64(std::string_view key, uint64_t value) { put_scalar(key, kGgufU64, value); }
void GgufWriter::put_f32(std::string_view key, float value) { put_scalar(key, kGgufF32, value); }
void GgufWriter::put_bool(std::string_view key, bool value) { put_scalar(key, kGgufBool, static_cast<uint8_t>(value)); }

void GgufWriter::put_string(std::string_view key, std::string_view value) {
  put_key(key, kGgufString);
  append_text(keys_, value);
}

void GgufWriter::put_strings(std::string_view key, std::span<const std::string> values) {
  put_key(key, kGgufArray);
  append(keys_, uint32_t{kGgufString});
  append(keys_, uint64_t{values.size()});
  for (const std::string& value : values) append_text(keys_, value);
}

void GgufWriter::put_u32s(std::string_view key, std::span<const uint32_t> values) { put_array(key, kGgufU32, values); }
void GgufWriter::put_i32s(std::string_view key, std::span<const int32_t> values) { put_array(key, kGgufI32, values); }
void GgufWriter::put_f32s(std::string_view key, std::span<const float> values) { put_array(key, kGgufF32, values); }

void GgufWriter::add_tensor(std::string_view name, DType dtype, std::vector<uint64_t> shape) {
  const DTypeInfo& info = dtype_info(dtype);
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::kUsage, fmt::format("tensor \"{}\": {}", printable(name), what)); };
  if (name.empty() || name.size() > kMaxGgufTensorNameBytes) fail(fmt::format("expected a name of 1 to {} bytes, found {}", kMaxGgufTensorNameBytes, name.size()));
  if (shape.empty() || shape.size() > 4) fail(fmt::format("expected 1 to 4 dimensions, found {}", shape.size()));
  uint64_t n_elems = 1;
  for (const uint64_t dim : shape)
    if (dim == 0 || __builtin_mul_overflow(n_elems, dim, &n_elems) || n_elems > INT64_MAX) fail(fmt::format("dimension {} is impossible here", dim));
  if (shape.back() % info.block_elems != 0)
    fail(fmt::format("expected rows of whole {}-element {} blocks, found a row of {}", info.block_elems, info.name, shape.back()));
  TensorInfo tensor;
  tensor.name = name;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.file_offset = data_bytes_;
  constexpr uint64_t kMaxBytes = uint64_t{1} << 62;
  if (__builtin_mul_overflow(n_elems / info.block_elems, uint64_t{info.block_bytes}, &tensor.n_bytes) || tensor.n_bytes > kMaxBytes ||
      data_bytes_ > kMaxBytes - tensor.n_bytes)
    fail(fmt::format("{} elements of {} make the file larger than 2^62 bytes", n_elems, info.name));
  data_bytes_ += round_up(tensor.n_bytes, alignment_);
  table_bytes_ += 8 + tensor.name.size() + 4 + 8 * tensor.shape.size() + 4 + 8;
  tensors_.push_back(std::move(tensor));
}

std::string GgufWriter::header() const {
  std::string out = "GGUF";
  append(out, uint32_t{3});
  append(out, uint64_t{tensors_.size()});
  append(out, n_keys_);
  out += keys_;
  for (const TensorInfo& tensor : tensors_) {
    append_text(out, tensor.name);
    append(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) append(out, *dim);
    append(out, static_cast<uint32_t>(tensor.dtype));
    append(out, tensor.file_offset);
  }
  out.resize(round_up(out.size(), alignment_), '\0');
  return out;
}

std::vector<TensorInfo> GgufWriter::tensors() const {
  const uint64_t data_offset = round_up(kFixedHeaderBytes + keys_.size() + table_bytes_, alignment_);
  std::vector<TensorInfo> out = tensors_;
  for (TensorInfo& tensor : out) tensor.file_offset += data_offset;
  return out;
}

uint64_t GgufWriter::file_bytes() const {
  return round_up(kFixedHeaderBytes + keys_.size() + table_bytes_, alignment_) + data_bytes_;
}

}  // namespace sj
