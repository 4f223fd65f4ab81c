// q8_0 rows of the KV cache: x = d q, q int8, one f16 scale d for each 32 dims (a block), d = max |x| / 127, q = round(x / d).
// A page of one KV head is int8 [kPageTokens][kHeadDim], then f16 [kPageTokens][kHeadDim / 32]. The blocks of a row are
// exchanged among each other, so that a slice in shared memory is read as fragments of the tensor core's tiles, four keys or
// four values at a time, without bank conflicts (two-way ones for values of 64 or 96 dims). Scales lie in order.
// Readers take f16(d q) for x, whether it is in a page or was made in this step.
#pragma once

#include "device/ptx.cuh"

namespace sj {

/// Where a page's rows and scales are, in bytes from the page's begin.
template <uint32_t kHeadDim, uint32_t kPageTokens>
struct KvQ8Page {
  static constexpr uint32_t kScaleRowBytes = kHeadDim / 16, kScales = kPageTokens * kHeadDim, kBytes = kScales + kPageTokens * kScaleRowBytes;
  static_assert(kHeadDim % 32 == 0 && kBytes % 16 == 0);
};

/// Place of block `block` in row `row` (of a page, or of a slice that starts at a multiple of 8 rows); it is its own inverse.
template <uint32_t kHeadDim>
__device__ __forceinline__ uint32_t kv_block(uint32_t row, uint32_t block) {
  if constexpr (kHeadDim % 128 == 0) return block ^ (row / 2 % 4 ^ row % 2 * 2);
  else if constexpr (kHeadDim % 64 == 0) return block ^ row / 2 % 2;
  else return block;
}

/// Bits of |x|. Their order is that of the numbers, with NaN above all: a block with a NaN gets a scale that is NaN.
__device__ __forceinline__ uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

__device__ __forceinline__ uint32_t max_magnitude(uint32_t bits, float4 x) {
  bits = max_u32(max_u32(bits, magnitude_bits(x.x)), magnitude_bits(x.y));
  return max_u32(max_u32(bits, magnitude_bits(x.z)), magnitude_bits(x.w));
}

/// Largest of the kLanes lanes (a power of two) around this one. All lanes of the warp call it.
template <uint32_t kLanes>
__device__ __forceinline__ uint32_t group_max(uint32_t v) {
#pragma unroll
  for (uint32_t offset = kLanes / 2; offset != 0; offset /= 2) v = max_u32(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

/// Scale of a block whose largest magnitude has these bits.
__device__ __forceinline__ uint16_t q8_scale(uint32_t largest) { return float_to_half(__uint_as_float(largest) * (1.0f / 127)); }

/// Four quants in the order of bytes.
__device__ __forceinline__ uint32_t q8_quants(float4 x, uint32_t largest) {
  const float scale = largest != 0 ? 127.0f / __uint_as_float(largest) : 0.0f;   // infinite only where the f16 scale is 0
  return (float_to_s8(x.x * scale) & 255u) | (float_to_s8(x.y * scale) & 255u) << 8 | (float_to_s8(x.z * scale) & 255u) << 16 |
         static_cast<uint32_t>(float_to_s8(x.w * scale)) << 24;
}

/// d q of four quants as two times two halves: dims 0, 1 and 2, 3.
__device__ __forceinline__ void q8_halves(uint32_t quants, uint32_t scales, uint32_t (&out)[2]) {
  const uint32_t shifted = quants ^ 0x80808080u;   // q + 128; behind the byte 0x64 it is the half 1024 + 128 + q
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t q = fma_half2(__byte_perm(shifted, 0x64646464u, i == 0 ? 0x4140u : 0x4342u), 0x3C003C00u, 0xE480E480u);
    out[i] = fma_half2(q, scales, 0);
  }
}

}  // namespace sj
