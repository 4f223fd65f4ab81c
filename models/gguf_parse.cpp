#include "models/gguf_parse.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is used in place");

constexpr uint64_t kMinKeyRecordBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorRecordBytes = 8 + 1 + 4 + 8 + 4 + 8;

constexpr std::array<std::string_view, 13> kTypeNames = {"u8", "i8", "u16", "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};

/// Reads forward through the file; every read is bounded by the bytes that are left.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  uint64_t pos() const { return pos_; }
  uint64_t left() const { return bytes_.size() - pos_; }
  void seek(uint64_t pos) { pos_ = pos; }
  const std::byte* here() const { return bytes_.data() + pos_; }

  /// The record that errors will name: "metadata key 3" and, once read, its name.
  void set_record(const char* kind, uint64_t idx) { record_ = kind; record_idx_ = idx; name_ = {}; }
  void set_name(std::string_view name) { name_ = name; }
  void clear_record() { record_ = nullptr; }

  [[noreturn]] void fail(const char* field, uint64_t offset, std::string_view what,
                         ErrorKind kind = ErrorKind::kBadModel) const {
    std::string object = "GGUF header";
    if (record_ != nullptr) object = name_.empty() ? fmt::format("{} {}", record_, record_idx_)
                                                   : fmt::format("{} {} \"{}\"", record_, record_idx_, printable(name_));
    throw Error(kind, fmt::format("{}: {}", object, what), fmt::format("field {}; offset {}; file {}", field, offset, file_));
  }

  void require(uint64_t n_bytes, const char* field) const {
    if (n_bytes > left())
      fail(field, pos_, fmt::format("the file ends here: needs {} more bytes, {} left of {}", n_bytes, left(), bytes_.size()));
  }

  template <class T>
  T read(const char* field) {
    require(sizeof(T), field);
    T value;
    std::memcpy(&value, here(), sizeof(T));
    pos_ += sizeof(T);
    return value;
  }

  std::string_view read_string(const char* field, uint64_t max_bytes) {
    const uint64_t offset = pos_;
    const uint64_t n = read<uint64_t>(field);
    if (n > max_bytes) fail(field, offset, fmt::format("expected a text of at most {} bytes, found length {}", max_bytes, n));
    require(n, field);
    const std::string_view text(reinterpret_cast<const char*>(here()), n);
    pos_ += n;
    return text;
  }

  void skip(uint64_t n_bytes, const char* field) {
    require(n_bytes, field);
    pos_ += n_bytes;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  uint64_t pos_ = 0;
  const char* record_ = nullptr;
  uint64_t record_idx_ = 0;
  std::string_view name_;
};

std::string what_it_looks_like(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto starts = [&](std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; };
  if (starts("version https://git-lfs")) return "; this is a Git LFS pointer: the model itself was not downloaded";
  if (starts("PK\x03\x04")) return "; this is a zip archive (perhaps a PyTorch checkpoint)";
  if (starts("<!") || starts("<html")) return "; this is an HTML page: the download failed";
  if (starts("ggml") || starts("lmgg") || starts("tjgg") || starts("ggjt") || starts("fmgg") || starts("algg"))
    return "; this is a pre-GGUF file of 2023: convert it again";
  if (text.size() > 9 && text[8] == '{') return "; this is perhaps a safetensors file: convert it to GGUF";
  return "";
}

void read_magic(Cursor& in, std::span<const std::byte> bytes) {
  std::array<unsigned char, 4> magic{};
  const size_t n = std::min<size_t>(bytes.size(), 4);
  if (n > 0) std::memcpy(magic.data(), bytes.data(), n);
  if (n < 4 || std::memcmp(magic.data(), "GGUF", 4) != 0) {
    std::string found = n == 0 ? "nothing" : "";
    for (size_t i = 0; i < n; ++i) found += fmt::format("{}{:02x}", i == 0 ? "" : " ", magic[i]);
    in.fail("magic", 0, fmt::format("not a GGUF file: expected 47 47 55 46 (\"GGUF\"), found {} in a file of {} bytes{}",
                                    found, bytes.size(), what_it_looks_like(bytes)));
  }
  in.skip(4, "magic");
}

uint32_t read_version(Cursor& in) {
  const uint64_t offset = in.pos();
  const auto version = in.read<uint32_t>("version");
  if (version != 0 && (version & 0xFFFF) == 0)
    in.fail("version", offset, fmt::format("the file is big-endian (version reads as {:#010x}); only little-endian files are supported", version),
            ErrorKind::kUnsupported);
  if (version != 2 && version != 3) in.fail("version", offset, fmt::format("expected GGUF version 2 or 3, found {}", version));
  return version;
}

uint64_t read_count(Cursor& in, const char* field, uint64_t limit) {
  const uint64_t offset = in.pos();
  const auto n = in.read<int64_t>(field);
  if (n < 0 || static_cast<uint64_t>(n) > limit)
    in.fail(field, offset, fmt::format("expected a count from 0 to {}, found {}", limit, n));
  return static_cast<uint64_t>(n);
}

void require_room(Cursor& in, const char* field, uint64_t offset, uint64_t n, uint64_t min_bytes) {
  if (n > in.left() / min_bytes)
    in.fail(field, offset, fmt::format("declares {} records of at least {} bytes, but only {} bytes are left", n, min_bytes, in.left()));
}

/// One metadata value. With `out` null the value is checked and passed over: the first of the two passes, which proves
/// that all declared records exist before memory is asked for them.
void read_value(Cursor& in, GgufValue* out) {
  const uint64_t type_offset = in.pos();
  const auto type = in.read<uint32_t>("type");
  if (type > kGgufF64) in.fail("type", type_offset, fmt::format("expected a value type id from 0 to 12, found {}", type));
  const auto check_bools = [&](const std::byte* first, uint64_t n, uint64_t offset) {
    for (uint64_t i = 0; i < n; ++i)
      if (std::to_integer<unsigned>(first[i]) > 1)
        in.fail("value", offset + i, fmt::format("expected a bool of 0 or 1, found {}", std::to_integer<unsigned>(first[i])));
  };
  if (type == kGgufString) {
    const std::string_view text = in.read_string("value", kMaxGgufStringBytes);
    if (out != nullptr) *out = text;
    return;
  }
  if (type != kGgufArray) {
    const std::byte* from = in.here();
    const uint64_t offset = in.pos();
    in.skip(gguf_scalar_bytes(type), "value");
    if (type == kGgufBool) check_bools(from, 1, offset);
    if (out != nullptr) *out = read_gguf_scalar(type, from);
    return;
  }
  GgufArray array;
  const uint64_t element_offset = in.pos();
  array.element_type = in.read<uint32_t>("element type");
  if (array.element_type > kGgufF64)
    in.fail("element type", element_offset, fmt::format("expected an element type id from 0 to 12, found {}", array.element_type));
  if (array.element_type == kGgufArray) in.fail("element type", element_offset, "an array of arrays is not allowed");
  const uint64_t count_offset = in.pos();
  array.count = in.read<uint64_t>("count");
  const uint64_t min_bytes = array.element_type == kGgufString ? 8 : gguf_scalar_bytes(array.element_type);
  require_room(in, "count", count_offset, array.count, min_bytes);
  if (array.element_type == kGgufString) {
    if (out != nullptr) array.strings.reserve(array.count);
    for (uint64_t i = 0; i < array.count; ++i) {
      const std::string_view text = in.read_string("element", kMaxGgufStringBytes);
      if (out != nullptr) array.strings.push_back(text);
    }
  } else {
    array.bytes = {in.here(), array.count * min_bytes};
    if (array.element_type == kGgufBool && out == nullptr) check_bools(in.here(), array.count, in.pos());
    in.skip(array.count * min_bytes, "elements");
  }
  if (out != nullptr) *out = std::move(array);
}

void read_metadata(Cursor& in, uint64_t n_keys, uint64_t n_keys_offset, ParsedGguf& out) {
  require_room(in, "n_kv", n_keys_offset, n_keys, kMinKeyRecordBytes);
  const uint64_t start = in.pos();
  const auto read_key = [&](uint64_t i) {
    in.set_record("metadata key", i);
    const uint64_t offset = in.pos();
    const std::string_view key = in.read_string("key", kMaxGgufKeyBytes);
    if (key.empty()) in.fail("key", offset, "the key is empty");
    in.set_name(key);
    return key;
  };
  for (uint64_t i = 0; i < n_keys; ++i) {
    read_key(i);
    read_value(in, nullptr);
  }
  in.seek(start);
  out.metadata.reserve(n_keys);
  out.value_offsets.reserve(n_keys);
  out.key_index = NameIndex(n_keys);
  const auto key_of = [&](uint32_t i) -> std::string_view { return out.metadata[i].first; };
  for (uint64_t i = 0; i < n_keys; ++i) {
    const uint64_t offset = in.pos();
    const std::string_view key = read_key(i);
    if (const auto first = out.key_index.insert(key, static_cast<uint32_t>(i), key_of))
      in.fail("key", offset, fmt::format("the key was given before, as metadata key {}", *first));
    out.metadata.emplace_back(std::string(key), GgufValue{});
    out.value_offsets.push_back(in.pos());
    read_value(in, &out.metadata.back().second);
  }
  in.clear_record();
}

uint64_t read_alignment(const Cursor& in, const ParsedGguf& parsed) {
  for (size_t i = 0; i < parsed.metadata.size(); ++i) {
    if (parsed.metadata[i].first != "general.alignment") continue;
    const auto* value = std::get_if<uint64_t>(&parsed.metadata[i].second);
    uint32_t type = 0;
    std::memcpy(&type, in.here() - in.pos() + parsed.value_offsets[i], sizeof type);
    if (type != kGgufU32)
      in.fail("general.alignment", parsed.value_offsets[i], fmt::format("expected a value of type u32, found {}", gguf_type_name(type)));
    if (*value < 8 || *value > kMaxGgufAlignment || !std::has_single_bit(*value))
      in.fail("general.alignment", parsed.value_offsets[i] + 4,
              fmt::format("expected a power of two from 8 to {}, found {}", kMaxGgufAlignment, *value));
    return *value;
  }
  return 32;
}

/// Names of ids that exist in ggml but are not read here; nullopt: removed, or never assigned.
std::optional<std::string_view> find_foreign_type(uint32_t id) {
  switch (id) {
    case 9: return "Q8_1";
    case 15: return "Q8_K";
    case 16: return "IQ2_XXS";
    case 17: return "IQ2_XS";
    case 18: return "IQ3_XXS";
    case 19: return "IQ1_S";
    case 21: return "IQ3_S";
    case 22: return "IQ2_S";
    case 29: return "IQ1_M";
    case 34: return "TQ1_0";
    case 35: return "TQ2_0";
    case 41: return "Q1_0";
    case 42: return "Q2_0";
    default: return std::nullopt;
  }
}

/// One tensor record; `file_offset` is still relative to the data section.
TensorInfo read_tensor(Cursor& in, uint64_t idx, uint64_t alignment) {
  in.set_record("tensor", idx);
  TensorInfo info;
  const uint64_t name_offset = in.pos();
  const std::string_view name = in.read_string("name", kMaxGgufTensorNameBytes);
  if (name.empty()) in.fail("name", name_offset, "the tensor's name is empty");
  in.set_name(name);
  if (name.find('\0') != std::string_view::npos) in.fail("name", name_offset, "the tensor's name holds a NUL byte");
  info.name = name;

  const uint64_t n_dims_offset = in.pos();
  const auto n_dims = in.read<uint32_t>("n_dims");
  if (n_dims < 1 || n_dims > 4) in.fail("n_dims", n_dims_offset, fmt::format("expected 1 to 4 dimensions, found {}", n_dims));
  uint64_t n_elems = 1;
  info.shape.resize(n_dims);
  for (uint32_t i = 0; i < n_dims; ++i) {
    const uint64_t offset = in.pos();
    const auto dim = in.read<int64_t>("dims");
    if (dim < 1) in.fail("dims", offset, fmt::format("expected dimension {} to be at least 1, found {}", i, dim));
    if (__builtin_mul_overflow(n_elems, static_cast<uint64_t>(dim), &n_elems) || n_elems > INT64_MAX)
      in.fail("dims", offset, fmt::format("the number of elements overflows 63 bits at dimension {}, which is {}", i, dim));
    info.shape[n_dims - 1 - i] = static_cast<uint64_t>(dim);
  }

  const uint64_t type_offset = in.pos();
  const auto type = in.read<uint32_t>("type");
  const std::optional<DTypeInfo> row = find_dtype(type);
  if (!row) {
    if (const auto foreign = find_foreign_type(type))
      in.fail("type", type_offset, fmt::format("tensor type {} (id {}) is not supported", *foreign, type), ErrorKind::kUnsupported);
    in.fail("type", type_offset, fmt::format("expected a tensor type id of ggml, found {}, which is unknown or was removed", type));
  }
  info.dtype = row->dtype;
  if (info.shape.back() % row->block_elems != 0)
    in.fail("dims", n_dims_offset + 4, fmt::format("expected rows of whole {}-element {} blocks, found a row of {}", row->block_elems,
                                                   row->name, info.shape.back()));
  if (__builtin_mul_overflow(n_elems / row->block_elems, uint64_t{row->block_bytes}, &info.n_bytes) || info.n_bytes > INT64_MAX)
    in.fail("dims", n_dims_offset + 4, fmt::format("the size in bytes of {} {} elements overflows 63 bits", n_elems, row->name));

  const uint64_t offset_offset = in.pos();
  info.file_offset = in.read<uint64_t>("offset");
  if (info.file_offset % alignment != 0)
    in.fail("offset", offset_offset, fmt::format("expected a multiple of the alignment {}, found {}", alignment, info.file_offset));
  return info;
}

void read_tensors(Cursor& in, uint64_t n_tensors, uint64_t n_tensors_offset, ParsedGguf& out) {
  require_room(in, "n_tensors", n_tensors_offset, n_tensors, kMinTensorRecordBytes);
  // First pass: walk the records by their lengths only, so that the table's memory is asked for after they all exist.
  const uint64_t start = in.pos();
  for (uint64_t i = 0; i < n_tensors; ++i) {
    in.set_record("tensor", i);
    in.read_string("name", kMaxGgufTensorNameBytes);
    const uint64_t offset = in.pos();
    const auto n_dims = in.read<uint32_t>("n_dims");
    if (n_dims < 1 || n_dims > 4) in.fail("n_dims", offset, fmt::format("expected 1 to 4 dimensions, found {}", n_dims));
    in.skip(n_dims * 8, "dims");
    in.skip(4, "type");
    in.skip(8, "offset");
  }
  in.seek(start);
  out.tensors.reserve(n_tensors);
  NameIndex index(n_tensors);
  const auto name_of = [&](uint32_t i) -> std::string_view { return out.tensors[i].name; };
  for (uint64_t i = 0; i < n_tensors; ++i) {
    const uint64_t offset = in.pos();
    TensorInfo info = read_tensor(in, i, out.alignment);
    if (const auto first = index.insert(info.name, static_cast<uint32_t>(i), name_of))
      in.fail("name", offset, fmt::format("the name was given before, to tensor {}", *first));
    out.tensors.push_back(std::move(info));
  }
  in.clear_record();
}

/// Tensors must tile the data section: no overlap, no hole (which could hide bytes), nothing past the end of the file.
/// Only the last tensor's padding may be missing.
void place_tensors(Cursor& in, uint64_t file_bytes, ParsedGguf& out) {
  const uint64_t mask = out.alignment - 1;
  if (in.pos() > UINT64_MAX - mask) in.fail("data section", in.pos(), "the header's size overflows");
  out.data_offset = (in.pos() + mask) & ~mask;
  if (out.tensors.empty()) return;
  if (out.data_offset > file_bytes)
    in.fail("data section", in.pos(), fmt::format("the data section starts at {}, but the file has {} bytes", out.data_offset, file_bytes));
  const uint64_t data_bytes = file_bytes - out.data_offset;
  std::vector<uint32_t> order(out.tensors.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::pair(out.tensors[a].file_offset, a) < std::pair(out.tensors[b].file_offset, b);
  });
  const TensorInfo* previous = nullptr;
  uint64_t expected = 0;
  for (const uint32_t i : order) {
    TensorInfo& info = out.tensors[i];
    in.set_record("tensor", i);
    in.set_name(info.name);
    const uint64_t at = info.file_offset;
    const auto range = [](uint64_t begin, uint64_t n) { return fmt::format("[{}, +{})", begin, n); };
    if (at > data_bytes || info.n_bytes > data_bytes - at)
      in.fail("offset", out.data_offset, fmt::format("bytes {} of the data section reach past its end at {}: the file is cut short",
                                                     range(at, info.n_bytes), data_bytes));
    if (at < expected)
      in.fail("offset", out.data_offset + at, fmt::format("bytes {} overlap those of tensor \"{}\" or its padding, which end at {}",
                                                          range(at, info.n_bytes), printable(previous->name), expected));
    if (at > expected)
      in.fail("offset", out.data_offset + at,
              fmt::format("expected the tensor at {} of the data section, right after {}, found it at {}", expected,
                          previous == nullptr ? "its start" : fmt::format("tensor \"{}\"", printable(previous->name)), at));
    // at + n_bytes <= data_bytes <= INT64_MAX, so rounding up to the alignment can't wrap.
    expected = (at + info.n_bytes + mask) & ~mask;
    previous = &info;
  }
  for (TensorInfo& info : out.tensors) info.file_offset += out.data_offset;
  in.clear_record();
}

}  // namespace

std::string gguf_type_name(uint32_t type) {
  return type < kTypeNames.size() ? std::string(kTypeNames[type]) : fmt::format("type {}", type);
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) {
    if (c >= 0x20 && c < 0x7F && c != '"' && c != '\\') out += c;
    else out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return text.size() > 80 ? out + "..." : out;
}

uint64_t gguf_scalar_bytes(uint32_t type) {
  constexpr std::array<uint8_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < kBytes.size() ? kBytes[type] : 0;
}

GgufValue read_gguf_scalar(uint32_t type, const std::byte* from) {
  const auto get = [&]<class T>(T value) {
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  switch (type) {
    case kGgufU8: return uint64_t{get(uint8_t{})};
    case kGgufI8: return int64_t{get(int8_t{})};
    case kGgufU16: return uint64_t{get(uint16_t{})};
    case kGgufI16: return int64_t{get(int16_t{})};
    case kGgufU32: return uint64_t{get(uint32_t{})};
    case kGgufI32: return int64_t{get(int32_t{})};
    case kGgufF32: return double{get(float{})};
    case kGgufBool: return get(uint8_t{}) != 0;
    case kGgufU64: return get(uint64_t{});
    case kGgufI64: return get(int64_t{});
    case kGgufF64: return get(double{});
    default: throw Error(ErrorKind::kInternal, fmt::format("read_gguf_scalar: {} is not a scalar type", gguf_type_name(type)));
  }
}

ParsedGguf parse_gguf(std::span<const std::byte> bytes, uint64_t file_bytes, const std::string& file, uint32_t part_idx) {
  Cursor in(bytes, file);
  ParsedGguf out;
  read_magic(in, bytes);
  out.version = read_version(in);
  const uint64_t n_tensors_offset = in.pos();
  const uint64_t n_tensors = read_count(in, "n_tensors", kMaxGgufTensors);
  const uint64_t n_keys_offset = in.pos();
  const uint64_t n_keys = read_count(in, "n_kv", kMaxGgufKeys);
  read_metadata(in, n_keys, n_keys_offset, out);
  out.alignment = read_alignment(in, out);
  read_tensors(in, n_tensors, n_tensors_offset, out);
  place_tensors(in, file_bytes, out);
  for (TensorInfo& info : out.tensors) info.part = part_idx;
  return out;
}

}  // namespace sj
