// Element and block types of tensors: ids, names and sizes as GGUF defines them (GGUF specification, tensor types).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace sj {

/// The value is the ggml type id stored in GGUF files.
enum class DType : uint32_t {
  kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8,
  kQ2_K = 10, kQ3_K = 11, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14,
  kIQ4_NL = 20, kIQ4_XS = 23, kI8 = 24, kI16 = 25, kI32 = 26, kI64 = 27, kF64 = 28, kBF16 = 30,
  kMXFP4 = 39, kNVFP4 = 40,
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;  ///< ggml's spelling: "F32", "Q4_K"
  uint32_t block_elems;   ///< elements of one block; blocks run along the fastest axis
  uint32_t block_bytes;   ///< bytes of one block in a GGUF file
};

/// The table row of a type that sparkjit reads; nullopt for every other id.
std::optional<DTypeInfo> find_dtype(uint32_t ggml_type_id);
/// The table row of `dtype`. Never fails: every enumerator has a row.
const DTypeInfo& dtype_info(DType dtype);
/// By ggml's spelling, case-insensitive.
std::optional<DType> find_dtype_by_name(std::string_view name);

inline std::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }
inline bool is_quantised(DType dtype) { return dtype_info(dtype).block_elems > 1; }

}  // namespace sj
