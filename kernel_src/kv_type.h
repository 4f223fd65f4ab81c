// How the KV cache stores numbers. Called by the specs of the kernels that touch it, and by the runtime.
#pragma once

#include <cstdint>
#include <string_view>

namespace sj {

enum class KvType : uint32_t {
  kF16,
  kF32,    ///< with float32 activations, for comparisons
  kQ8_0,   ///< int8 with an f16 scale for each 32 dims: device/kv_q8.cuh
};

/// As --kv-type spells it; "f32" is of --f32 sessions.
constexpr std::string_view kv_type_name(KvType type) { return type == KvType::kQ8_0 ? "q8_0" : type == KvType::kF32 ? "f32" : "f16"; }

inline constexpr uint32_t kKvBlockDims = 32;   ///< dims that share a scale in a q8_0 row

/// Bytes of one token's k or v in one KV head. q8_0 requires head_dim to be a multiple of 32.
constexpr uint64_t kv_row_bytes(KvType type, uint32_t head_dim) {
  return type == KvType::kQ8_0 ? head_dim + head_dim / kKvBlockDims * 2 : uint64_t{head_dim} * (type == KvType::kF32 ? 4 : 2);
}

}  // namespace sj
