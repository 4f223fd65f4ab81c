// The router's scores, and the choice of experts by them. A score is the product of an expert's row with x * norm_weight: the
// logit but for the factor 1 / rms(x), which changes no rank. It is kept as an integer, in units of 2^-32, so that many blocks can
// add their parts in any order and the sum is the same.
#pragma once

#include "device/decode.cuh"

#include "args/router_scores.h"

namespace sj {

/// Saturates at 2^31; a NaN becomes any number (what it came from reaches the logits through the residual stream).
__device__ __forceinline__ int64_t score_of(float product) { return __float2ll_rn(product * 4294967296.0f); }
__device__ __forceinline__ float score_value(uint32_t low_word, uint32_t high_word) {
  return __ll2float_rn(static_cast<long long>(static_cast<uint64_t>(high_word) << 32 | low_word)) * (1.0f / 4294967296.0f);
}

/// The kUsed largest of kExperts scores in descending order; each warp finds them for itself. Scores that agree in the upper
/// bits of their float (the lowest kIdBits are left out: a relative difference under 2^-14) count as ties: lower id first.
template <uint32_t kExperts, uint32_t kUsed>
struct TopExperts {
  static_assert(kExperts <= 512 && kUsed <= kWarpLanes && kUsed <= kExperts);
  static constexpr uint32_t kEach = ceil_div(kExperts, 128) * 4, kIdMask = kExperts <= 128 ? 127 : kExperts <= 256 ? 255 : 511;
  float score[kEach];
  uint32_t found = 0;   ///< lane r: key of rank r

  static __device__ __forceinline__ uint32_t expert_of(uint32_t i) { return i / 4 * 128 + lane_idx() * 4 + i % 4; }
  static __device__ __forceinline__ bool is_live(uint32_t i) { return kExperts % 128 == 0 || expert_of(i) < kExperts; }

  __device__ __forceinline__ void fetch(const int64_t* scores) {
#pragma unroll
    for (uint32_t i = 0; i < kEach; i += 2) {
      const int64_t* const pair = scores + score_index(expert_of(i));
      score[i] = score[i + 1] = 0.0f;
      if (is_live(i + 1)) {
        const uint4 v = ld_cg_v4(pair);
        score[i] = score_value(v.x, v.y), score[i + 1] = score_value(v.z, v.w);
      } else if (is_live(i)) {   // an odd number of experts: nobody writes behind the last
        const auto* words = reinterpret_cast<const uint32_t*>(pair);
        score[i] = score_value(ld_cg_u32(words), ld_cg_u32(words + 1));
      }
    }
  }
  /// Finds ranks 0 .. n_ranks - 1.
  __device__ __forceinline__ void find(uint32_t n_ranks) {
    uint32_t key[kEach];
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const uint32_t bits = __float_as_uint(score[i]);
      const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
      key[i] = is_live(i) ? (ordered & ~kIdMask) | (kIdMask - expert_of(i)) : 0;
    }
#pragma unroll 1
    for (uint32_t r = 0; r < n_ranks; ++r) {
      uint32_t best = key[0];
#pragma unroll
      for (uint32_t i = 1; i < kEach; ++i) best = max_u32(best, key[i]);
      best = __reduce_max_sync(kAllLanes, best);
#pragma unroll
      for (uint32_t i = 0; i < kEach; ++i) key[i] = key[i] == best ? 0 : key[i];
      if (lane_idx() == r) found = best;
    }
  }
  /// Lane r: the id of rank r.
  __device__ __forceinline__ uint32_t id() const { return kIdMask - (found & kIdMask); }
  /// Lane r < kUsed: the softmax over the logits of the kUsed found, which are their scores times `factor`. All ranks must have
  /// been found.
  __device__ __forceinline__ float weight(float factor) const {
    float mine = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const float v = __shfl_sync(kAllLanes, score[i], id() / 4 % kWarpLanes);
      if (id() / 128 * 4 + id() % 4 == i) mine = v;
    }
    const float top = __shfl_sync(kAllLanes, mine, 0);
    const float e = lane_idx() < kUsed ? __expf((mine - top) * factor) : 0.0f;
    return e / warp_sum(e);
  }
};

/// The part of a block that has kRows = 16 rows of x: 4 neighbouring lanes an expert, 4 rows each.
template <uint32_t kExperts, uint32_t kDim, uint32_t kThreads>
struct ScoreParts {
  static constexpr uint32_t kEach = ceil_div(4 * kExperts, kThreads);
  float4 weight[max_u32(kEach, 1)];

  static __device__ __forceinline__ uint32_t expert_of(uint32_t i) { return (i * kThreads + threadIdx.x) / 4; }
  static __device__ __forceinline__ bool is_live(uint32_t i) { return 4 * kExperts % kThreads == 0 || expert_of(i) < kExperts; }

  /// Rows first_row .. + 15 of `norm` [kDim] and of the router's records [kExperts][kDim]: known before x is.
  __device__ __forceinline__ void fetch(const uint8_t* router, const float* norm, uint32_t first_row) {
    const uint32_t row = first_row + threadIdx.x % 4 * 4;
    const float4 n = *reinterpret_cast<const float4*>(norm + row);
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      weight[i] = make_float4(0, 0, 0, 0);
      if (!is_live(i)) continue;
      const uint4 w = ld_weight_v4(router + (static_cast<size_t>(expert_of(i)) * kDim + row) * 4);
      weight[i] = make_float4(__uint_as_float(w.x) * n.x, __uint_as_float(w.y) * n.y, __uint_as_float(w.z) * n.z, __uint_as_float(w.w) * n.w);
    }
  }
  /// x: the block's 16 values, in shared memory.
  __device__ __forceinline__ void add(const float* x, int64_t* scores) const {
    const float4 v = reinterpret_cast<const float4*>(x)[threadIdx.x % 4];
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      float part = (weight[i].x * v.x + weight[i].y * v.y) + (weight[i].z * v.z + weight[i].w * v.w);
      part += __shfl_xor_sync(kAllLanes, part, 1);
      part += __shfl_xor_sync(kAllLanes, part, 2);
      if (threadIdx.x % 4 == 0 && is_live(i))
        atomicAdd(reinterpret_cast<unsigned long long*>(scores + score_index(expert_of(i))), static_cast<unsigned long long>(score_of(part)));
    }
  }
};

}  // namespace sj
