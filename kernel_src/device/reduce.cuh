// Reductions over a warp and over a block. Every thread of the warp (block) calls them; every thread gets the result. The
// order of additions is fixed, so results repeat bit for bit.
#pragma once

#include "device/types.cuh"

namespace sj {

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset != 0; offset >>= 1) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = 16; offset != 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

__device__ __forceinline__ uint64_t warp_max(uint64_t v) {
#pragma unroll
  for (int offset = 16; offset != 0; offset >>= 1) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, v, offset);
    v = other > v ? other : v;
  }
  return v;
}

/// Sum over a block of kThreads (a multiple of 32) in one dimension. `scratch`: kThreads / 32 floats of shared memory, free
/// for other use after the block's next barrier.
template <uint32_t kThreads>
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  static_assert(kThreads % kWarpLanes == 0 && kThreads <= 1024);
  v = warp_sum(v);
  if constexpr (kThreads > kWarpLanes) {
    if (threadIdx.x % kWarpLanes == 0) scratch[threadIdx.x / kWarpLanes] = v;
    __syncthreads();  // every warp's sum is in scratch
    v = threadIdx.x % kWarpLanes < kThreads / kWarpLanes ? scratch[threadIdx.x % kWarpLanes] : 0.0f;
    v = warp_sum(v);
  }
  return v;
}

/// A key that orders like (value, lower index first): the largest key is the arg-max. NaN sorts below every number.
__device__ __forceinline__ uint64_t argmax_key(float value, uint32_t index) {
  const uint32_t bits = __float_as_uint(value);
  uint32_t ordered = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  if (value != value) ordered = 0;
  if (value == 0.0f) ordered = 0x80000000u;  // -0 and +0 tie
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(~index);
}
__device__ __forceinline__ uint32_t argmax_index(uint64_t key) { return ~static_cast<uint32_t>(key); }

}  // namespace sj
