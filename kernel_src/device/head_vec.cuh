// One head's q, k or v in the registers of a warp: load, per-head RMSNorm, rotary embedding.
// Included by kernels that bake kHeadDim, kRot, kIsInterleaved, kHasQkNorm, kEps and kMagnitude.
#pragma once

#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/rotation.cuh"

namespace sj {

inline constexpr uint32_t kPairs = baked::kHeadDim / 2, kPairsEach = ceil_div(kPairs, kWarpLanes);

/// First and second dim of pair p; pairs from kRot / 2 on are not rotated.
__device__ __forceinline__ uint32_t first_dim(uint32_t p) {
  return baked::kIsInterleaved ? 2 * p : p < baked::kRot / 2 ? p : baked::kRot + 2 * (p - baked::kRot / 2);
}
__device__ __forceinline__ uint32_t second_dim(uint32_t p) {
  return baked::kIsInterleaved ? 2 * p + 1 : p < baked::kRot / 2 ? p + baked::kRot / 2 : first_dim(p) + 1;
}

/// Lane l holds pairs l, l + 32, ...
struct HeadVec {
  float a[kPairsEach], b[kPairsEach];
};

/// The values are here: they are not asked for later.
__device__ __forceinline__ void compute_here(HeadVec& v) {
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) compute_here(v.a[i]), compute_here(v.b[i]);
}

/// Calls visit(i, p) for each pair p of this lane, the i-th in its HeadVec.
template <class Visit>
__device__ __forceinline__ void for_each_pair(Visit&& visit) {
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    if (kPairs % kWarpLanes == 0 || p < kPairs) visit(i, p);
  }
}

/// What another kernel of this step wrote.
__device__ __forceinline__ HeadVec load_head(const float* from) {
  HeadVec v = {};
  for_each_pair([&](uint32_t i, uint32_t p) { v.a[i] = load_float(from + first_dim(p)), v.b[i] = load_float(from + second_dim(p)); });
  return v;
}

/// Norm weights; ones where there is no norm.
__device__ __forceinline__ HeadVec load_norm(const float* norm) {
  HeadVec v = {};
  for_each_pair([&](uint32_t i, uint32_t p) {
    v.a[i] = baked::kHasQkNorm ? norm[first_dim(p)] : 1.0f;
    v.b[i] = baked::kHasQkNorm ? norm[second_dim(p)] : 1.0f;
  });
  return v;
}

/// The rotations of this lane's pairs at `position`; turns: [kRot / 2] angle a position, in 2^-64 turn.
__device__ __forceinline__ void load_rotations(Rotation (&rotation)[kPairsEach], const uint64_t* turns, uint32_t position) {
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    rotation[i] = {1.0f, 0.0f};
    if (p >= baked::kRot / 2) continue;
    rotation[i] = rotation_of(static_cast<uint64_t>(position) * turns[p]);
    rotation[i].cosine *= baked::kMagnitude, rotation[i].sine *= baked::kMagnitude;
  }
}

__device__ __forceinline__ void norm_and_rotate(HeadVec& v, const HeadVec& norm, const Rotation (&rotation)[kPairsEach]) {
  float factor = 1.0f;
  if constexpr (baked::kHasQkNorm) {
    float squares = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kPairsEach; ++i) squares += v.a[i] * v.a[i] + v.b[i] * v.b[i];
    factor = rsqrtf(warp_sum(squares) * (1.0f / baked::kHeadDim) + baked::kEps);
  }
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    float a = v.a[i], b = v.b[i];
    if constexpr (baked::kHasQkNorm) a *= factor * norm.a[i], b *= factor * norm.b[i];
    v.a[i] = a * rotation[i].cosine - b * rotation[i].sine;
    v.b[i] = a * rotation[i].sine + b * rotation[i].cosine;
  }
}

}  // namespace sj
