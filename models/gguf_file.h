// A GGUF v2/v3 file (or its split parts), opened, checked and memory-mapped; nothing is interpreted beyond the container.
// In: a path. Out: metadata, tensor table, bytes of each tensor. Called by describe_model, tokenizer, weights, inspect.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "jit/base/dtype.h"

namespace sj {

struct GgufString { std::string_view text; };

/// A metadata array. Numbers stay in the mapped file (possibly unaligned); strings are indexed once.
struct GgufArray {
  uint32_t element_type = 0;  ///< GGUF value type id
  uint64_t count = 0;
  std::span<const std::byte> bytes;         ///< raw little-endian elements, empty for strings
  std::vector<std::string_view> strings;    ///< element_type string only
};

/// Integers keep their sign class, all widths widened; f32 is widened to double.
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>;

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  ///< slowest first: reversed once, here. A [out, in] matrix computes y = W x
  uint32_t part = 0;            ///< split part that holds it
  uint64_t file_offset = 0;     ///< absolute offset in that part
  uint64_t n_bytes = 0;
  uint64_t n_elems() const;
  uint64_t n_rows() const;   ///< product of all but the fastest dimension
  uint64_t row_elems() const;  ///< fastest dimension
};

class GgufFile {
 public:
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& path() const;               ///< of the first part
  uint64_t size_bytes() const;                   ///< all parts
  const std::vector<std::string>& part_paths() const;
  /// Metadata in file order.
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const;
  const std::vector<TensorInfo>& tensors() const;

  const GgufValue* find(std::string_view key) const;
  /// Typed getters: accept any integer width whose value fits; throw kBadModel naming file, key, expected and found type.
  /// `get_*` returns `fallback` when the key is absent; `require_*` throws.
  uint32_t require_u32(std::string_view key) const;
  uint32_t get_u32(std::string_view key, uint32_t fallback) const;
  float require_f32(std::string_view key) const;
  float get_f32(std::string_view key, float fallback) const;
  bool get_bool(std::string_view key, bool fallback) const;
  std::string_view require_string(std::string_view key) const;
  std::string_view get_string(std::string_view key, std::string_view fallback) const;
  std::span<const std::string_view> require_strings(std::string_view key) const;
  /// A scalar is broadcast to `n`; an array must have exactly `n` elements. Integers and bools alike.
  std::vector<uint32_t> get_u32s(std::string_view key, uint64_t n, uint32_t fallback) const;
  std::vector<float> get_f32s(std::string_view key) const;   ///< empty when absent
  std::vector<int32_t> get_i32s(std::string_view key) const; ///< empty when absent
  const GgufArray* find_array(std::string_view key) const;

  const TensorInfo* find_tensor(std::string_view name) const;
  const TensorInfo& require_tensor(std::string_view name) const;
  /// False for gguf_without_data: bytes() throws kInternal and fd() is -1.
  bool has_data() const;
  /// The tensor's bytes in the mapping; valid as long as this object lives.
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  /// File descriptor of a part, for pread by the weight loader; owned by this object.
  int fd(uint32_t part) const;
  /// Throws kIo when a part was replaced, resized or written to since it was opened. Called after the weights were read.
  void require_unchanged() const;

 private:
  friend GgufFile open_gguf(const std::string& path);
  friend GgufFile gguf_without_data(std::string header, uint64_t file_bytes, const std::string& name);
  friend GgufFile gguf_from_memory(std::span<const std::byte> bytes, const std::string& name);
  GgufFile();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Opens and checks `path` and, for "x-00001-of-0000N.gguf", its further parts. Reads only header pages; linear time.
/// Throws kIo (can't open, not a regular file), kBadModel (every broken rule of the container, with field and byte
/// offset) or kUnsupported (big-endian file, tensor type that only others read).
GgufFile open_gguf(const std::string& path);

/// Metadata and tensor table of a file whose data section exists nowhere; `header` is what comes before it, `file_bytes`
/// the size the whole would have. For weights that are made where they are needed (models/synth.h).
GgufFile gguf_without_data(std::string header, uint64_t file_bytes, const std::string& name);

/// The same checks on one unsplit file that lies in memory; `bytes` must outlive the result, whose fd() is -1. `name`
/// stands for the path in messages. For tests and the fuzz target.
GgufFile gguf_from_memory(std::span<const std::byte> bytes, const std::string& name);

}  // namespace sj
