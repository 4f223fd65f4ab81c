// Checks and small sums that every kernel spec shares. Called by *_spec.cpp only.
#pragma once

#include <cstdint>
#include <utility>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "kernel_src/kv_type.h"

namespace sj {

inline constexpr uint32_t kMaxGridYZ = 65535;   ///< CUDA's limit of gridDim.y and .z

/// Throws kUnsupported with the formatted text, which names family, rule and found value, unless `holds`.
template <class... Args>
void require_rule(bool holds, fmt::format_string<Args...> text, Args&&... args) {
  if (!holds) throw Error(ErrorKind::kUnsupported, fmt::format(text, std::forward<Args>(args)...));
}

/// ceil(a / b), and the least multiple of b that is >= a.
constexpr uint32_t ceil_div(uint64_t a, uint32_t b) { return static_cast<uint32_t>((a + b - 1) / b); }
constexpr uint32_t round_up(uint32_t a, uint32_t b) { return ceil_div(a, b) * b; }

/// 1 <= n_tokens <= kMaxGridYZ: tokens are a grid dimension.
inline void require_tokens(const char* family, uint32_t n_tokens) {
  require_rule(n_tokens >= 1 && n_tokens <= kMaxGridYZ, "{}: expected 1 to {} tokens, found {}", family, kMaxGridYZ, n_tokens);
}

/// A float4 a thread: lengths are positive multiples of 4.
inline void require_quads(const char* family, const char* name, uint32_t n) {
  require_rule(n != 0 && n % 4 == 0, "{}: {} {} is not a positive multiple of 4", family, name, n);
}

/// Rows of a q8_0 KV cache are whole blocks.
inline void require_q8_blocks(const char* family, KvType type, uint32_t head_dim) {
  require_rule(type != KvType::kQ8_0 || head_dim % kKvBlockDims == 0,
               "{}: head_dim {} is not a multiple of {}, as a q8_0 KV cache wants it; use --kv-type f16", family, head_dim, kKvBlockDims);
}

}  // namespace sj
