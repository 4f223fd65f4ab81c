// The header of one GGUF file, read from memory with every rule of the container checked. Private to gguf_file.cpp, the
// fuzz target and tests. In: the file's bytes. Out: metadata and tensor table, whose texts and arrays point into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/gguf_file.h"
#include "models/name_index.h"

namespace sj {

// Limits of what we accept. Real files stay far below: about 60 keys, 3,000 tensors, 64 MiB of header.
inline constexpr uint64_t kMaxGgufKeys = 1u << 20;
inline constexpr uint64_t kMaxGgufTensors = 1u << 20;
inline constexpr uint64_t kMaxGgufKeyBytes = 65535;
inline constexpr uint64_t kMaxGgufTensorNameBytes = 63;
inline constexpr uint64_t kMaxGgufStringBytes = 16u << 20;
inline constexpr uint64_t kMaxGgufAlignment = 1u << 20;

struct ParsedGguf {
  uint32_t version = 0;
  uint64_t alignment = 32;
  uint64_t data_offset = 0;                                  ///< where the data section starts in the file
  std::vector<std::pair<std::string, GgufValue>> metadata;   ///< file order
  std::vector<uint64_t> value_offsets;                       ///< byte offset of each metadata value
  std::vector<TensorInfo> tensors;                           ///< file order
  NameIndex key_index{0};                                    ///< of `metadata`
};

/// Allocates in proportion to what the file holds, never to what it declares; linear time (sorting of tensor ranges
/// apart). Throws kBadModel with field, offset and `file`, or kUnsupported for a tensor type that only others read.
/// `file_bytes`: size of the whole file, of which `bytes` must hold at least the header.
ParsedGguf parse_gguf(std::span<const std::byte> bytes, uint64_t file_bytes, const std::string& file, uint32_t part_idx);
inline ParsedGguf parse_gguf(std::span<const std::byte> bytes, const std::string& file, uint32_t part_idx) {
  return parse_gguf(bytes, bytes.size(), file, part_idx);
}

/// GGUF's name of a value type id: "u32", "string", "array"; "type 77" for an unknown one.
std::string gguf_type_name(uint32_t type);
/// Text from a file made fit for a terminal: control and non-ASCII bytes escaped, cut after 80 characters.
std::string printable(std::string_view text);
/// Bytes of one scalar of type `type`, 0 for strings, arrays and unknown ids.
uint64_t gguf_scalar_bytes(uint32_t type);
/// Reads one scalar; `from` has gguf_scalar_bytes(type) bytes.
GgufValue read_gguf_scalar(uint32_t type, const std::byte* from);

enum GgufType : uint32_t {
  kGgufU8 = 0, kGgufI8 = 1, kGgufU16 = 2, kGgufI16 = 3, kGgufU32 = 4, kGgufI32 = 5, kGgufF32 = 6, kGgufBool = 7,
  kGgufString = 8, kGgufArray = 9, kGgufU64 = 10, kGgufI64 = 11, kGgufF64 = 12,
};

}  // namespace sj
