// What the decode stages share: input vectors on their way to the lanes, tiles of weight rows, finished rows on their way to the
// next stage.
// A stage lets the one behind start (pdl_trigger) before it waits itself (pdl_wait), when that one has much to fetch ahead; behind
// its wait, when that one reads ahead what an earlier stage wrote; at its end, when that one can fetch nothing ahead.
#pragma once

#include "device/ptx.cuh"
#include "device/reduce.cuh"
#include "device/weight_dot.cuh"

namespace sj {

__device__ __forceinline__ uint32_t warp_idx() { return threadIdx.x / kWarpLanes; }
__device__ __forceinline__ uint32_t lane_idx() { return threadIdx.x % kWarpLanes; }

/// Reads at L2: what another kernel of this step wrote.
__device__ __forceinline__ float load_float(const float* p) { return __uint_as_float(ld_cg_u32(p)); }

__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  while (!mbarrier_try_wait_parity(barrier, parity)) {
  }
}

/// Brings a small struct from global to shared memory by way of registers. What is fetched before a flood of bulk copies is
/// issued does not queue behind it.
template <class T, uint32_t kThreads>
struct SharedLoad {
  static constexpr uint32_t kPieces = sizeof(T) / 16, kEach = ceil_div(kPieces, kThreads);
  static_assert(sizeof(T) % 16 == 0);
  uint4 piece[kEach];

  __device__ __forceinline__ void fetch(const void* from) {
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const uint32_t at = i * kThreads + threadIdx.x;
      if (kPieces % kThreads == 0 || at < kPieces) piece[i] = ld_cg_v4(static_cast<const uint8_t*>(from) + 16 * at);
    }
  }
  __device__ __forceinline__ void store(T& to) const {
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const uint32_t at = i * kThreads + threadIdx.x;
      if (kPieces % kThreads == 0 || at < kPieces) reinterpret_cast<uint4*>(&to)[at] = piece[i];
    }
  }
};

/// 1 / rms from the sums of squares; every warp computes it for itself.
template <uint32_t kDim>
__device__ __forceinline__ float inverse_rms(const NormedVec<kDim>& x, float eps) {
  constexpr uint32_t n = kDim / 16;
  float sum = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < ceil_div(n, kWarpLanes); ++i) {
    const uint32_t at = i * kWarpLanes + lane_idx();
    if (n % kWarpLanes == 0 || at < n) sum += x.square_sums[at];
  }
  return rsqrtf(warp_sum(sum) * (1.0f / kDim) + eps);
}

/// The same for the few warps that finish rows: they ask for the sums in global memory with the rest of the input, and reduce them
/// later.
template <uint32_t kDim>
struct InverseRms {
  static constexpr uint32_t kQuads = kDim / 64, kEach = ceil_div(kQuads, kWarpLanes);   // kDim is a multiple of 32: two sums may be left
  float4 sums[max_u32(kEach, 1)];
  float rest;

  __device__ __forceinline__ void fetch(const NormedVec<kDim>* x) {
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const uint32_t quad = i * kWarpLanes + lane_idx();
      sums[i] = make_float4(0, 0, 0, 0);
      if (kQuads % kWarpLanes != 0 && quad >= kQuads) continue;
      const uint4 v = ld_cg_v4(x->square_sums + 4 * quad);
      sums[i] = make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
    }
    rest = kDim % 64 != 0 && lane_idx() < 2 ? load_float(x->square_sums + 4 * kQuads + lane_idx()) : 0.0f;
  }
  __device__ __forceinline__ float factor(float eps) const {
    float sum = rest;
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) sum += (sums[i].x + sums[i].y) + (sums[i].z + sums[i].w);
    return rsqrtf(warp_sum(sum) * (1.0f / kDim) + eps);
  }
};

/// The slices of 256 values of a stage's input that one warp multiplies, on their way from global memory through registers into
/// shared memory of its own: no barrier of the block is on the way. chunk_of(i): first chunk of the warp's i-th slice.
template <uint32_t kDim, uint32_t kEach>
struct WarpInput {
  static constexpr uint32_t kChunks = kDim / 32, kHeld = min_u32(kEach, 8);
  uint4 piece[kHeld];   // lanes 0..7 of a slice's `lo`, 8..15 of `hi`, 16..23 of `meta`

  template <class ChunkOf>
  __device__ __forceinline__ void fetch(const void* x, ChunkOf&& chunk_of) {
    load(x, 0, chunk_of);
  }
  template <class ChunkOf>
  __device__ __forceinline__ void store(const void* x, ChunkOf&& chunk_of, QuantVec<256>* to) {
#pragma unroll
    for (uint32_t first = 0; first < kEach; first += kHeld) {
      if (first != 0) load(x, first, chunk_of);
#pragma unroll
      for (uint32_t i = 0; i < kHeld; ++i)
        if (first + i < kEach && lane_idx() < 24) reinterpret_cast<uint4*>(to + first + i)[lane_idx()] = piece[i];
    }
    __syncwarp();  // the slices are complete
  }

 private:
  template <class ChunkOf>
  __device__ __forceinline__ void load(const void* x, uint32_t first, ChunkOf&& chunk_of) {
#pragma unroll
    for (uint32_t i = 0; i < kHeld; ++i) {
      if (first + i >= kEach || lane_idx() >= 24) continue;
      const uint32_t chunk = min_u32(chunk_of(first + i) + lane_idx() % 8, kChunks - 1);   // the last one where there are no more
      piece[i] = ld_cg_v4(static_cast<const uint4*>(x) + lane_idx() / 8 * kChunks + chunk);
    }
  }
};

/// 16 neighbouring lanes hold a group of 16 values; value `idx` of the vector is this lane's. A whole warp calls it; lanes
/// whose group is not `live` store nothing. kIsAlone: only the lower half of the warp has a group, so that reductions of the whole
/// warp, of one instruction each, do: a stage's last microsecond is a chain of these. (Reductions of half a warp are slower than
/// shuffles.)
template <uint32_t kDim, bool kIsAlone = false>
__device__ __forceinline__ void store_group(float x, uint32_t idx, QuantVec<kDim>* out, bool live) {
  float largest = kIsAlone && !live ? 0.0f : fabsf(x);
  if constexpr (kIsAlone) {
    largest = __uint_as_float(__reduce_max_sync(kAllLanes, __float_as_uint(largest)));   // no sign: ordered like their bits
  } else {
#pragma unroll
    for (uint32_t offset = 8; offset != 0; offset >>= 1) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
  }
  const float d = largest * (1.0f / 127);
  const int32_t a = __float2int_rn(largest > 0.0f ? x * (127.0f * rcp_approx(largest)) : 0.0f);
  int32_t sum = kIsAlone && !live ? 0 : a;
  if constexpr (kIsAlone) {
    sum = __reduce_add_sync(kAllLanes, sum);
  } else {
#pragma unroll
    for (uint32_t offset = 8; offset != 0; offset >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  }
  if (!live) return;
  const uint32_t chunk = idx / 32;
  uint8_t* bytes = reinterpret_cast<uint8_t*>(idx & 16 ? &out->hi[chunk] : &out->lo[chunk]);
  bytes[idx % 16] = static_cast<uint8_t>(a);
  if (idx % 16 == 0) reinterpret_cast<float2*>(&out->meta[chunk])[idx / 16 % 2] = make_float2(d, d * static_cast<float>(sum));
}

/// The same with 4 values a lane, from `first` on: 4 neighbouring lanes hold a group.
template <uint32_t kDim>
__device__ __forceinline__ void store_quads(float4 x, uint32_t first, QuantVec<kDim>* out, bool live) {
  float largest = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  const float d = largest * (1.0f / 127), scale = largest > 0.0f ? 127.0f * rcp_approx(largest) : 0.0f;
  const int32_t a[4] = {__float2int_rn(x.x * scale), __float2int_rn(x.y * scale), __float2int_rn(x.z * scale), __float2int_rn(x.w * scale)};
  int32_t sum = a[0] + a[1] + a[2] + a[3];
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  if (!live) return;
  const uint32_t chunk = first / 32;
  uint8_t* bytes = reinterpret_cast<uint8_t*>(first & 16 ? &out->hi[chunk] : &out->lo[chunk]);
  *reinterpret_cast<uint32_t*>(bytes + first % 16) =
      (a[0] & 255u) | (a[1] & 255u) << 8 | (a[2] & 255u) << 16 | static_cast<uint32_t>(a[3]) << 24;
  if (first % 16 == 0) reinterpret_cast<float2*>(&out->meta[chunk])[first / 16 % 2] = make_float2(d, d * static_cast<float>(sum));
}

/// A block's 16 finished rows of the residual stream, one a lane of the lower half of a warp (lanes above pass anything):
/// stores them, and as one group of the next stage's input.
template <uint32_t kDim>
__device__ __forceinline__ void finish_rows(float x, float next_norm, uint32_t first_row, float* y, NormedVec<kDim>* next) {
  const uint32_t row = first_row + lane_idx() % 16;
  const bool live = lane_idx() < 16;
  if (live) y[row] = x;
  float squares = x * x;
#pragma unroll
  for (uint32_t offset = 8; offset != 0; offset >>= 1) squares += __shfl_xor_sync(kAllLanes, squares, offset);
  store_group<kDim, true>(x * next_norm, row, &next->q, live);
  if (lane_idx() == 0) next->square_sums[first_row / 16] = squares;
}

/// Sums kN values over groups of 8 lanes with fewer shuffles than 3 kN. Lane l of a group gets value l * kN / 8.
template <uint32_t kN>
__device__ __forceinline__ float sum_of_8(float (&v)[kN]) {
  static_assert(kN == 1 || kN == 2 || kN == 4 || kN == 8);
  uint32_t offset = 4;
#pragma unroll
  for (uint32_t n = kN; n > 1; n /= 2) {   // half of the lanes go on with half of the values
    const bool upper = (lane_idx() & offset) != 0;
#pragma unroll
    for (uint32_t i = 0; i < n / 2; ++i) {
      const float give = upper ? v[i] : v[i + n / 2], keep = upper ? v[i + n / 2] : v[i];
      v[i] = keep + __shfl_xor_sync(kAllLanes, give, offset);
    }
    offset /= 2;
  }
#pragma unroll
  for (; offset != 0; offset /= 2) v[0] += __shfl_xor_sync(kAllLanes, v[0], offset);
  return v[0];
}

/// A tile of row records in shared memory times a vector. Warps split the columns in slices of 256 (and, where there are more
/// warps than slices, the rows in parts); a warp's lanes are 4 rows x 8 chunks, so that a lane keeps its activations in
/// registers for all its rows.
template <uint32_t kDim, uint32_t kRows, uint32_t kWarps, uint32_t kMostEarly>
struct Tile {
  static constexpr uint32_t kChunks = kDim / 32, kSlices = ceil_div(kChunks, 8);
  static constexpr uint32_t kOwners = min_u32(kSlices, kWarps);            // warps with different slices
  static constexpr uint32_t kParts = kWarps / kOwners;                     // warps that share a slice
  static constexpr uint32_t kLoops = ceil_div(kSlices, kOwners);
  static constexpr uint32_t kPasses = ceil_div(kRows, 4 * kParts);         // a warp's rows, 4 at a time
  static constexpr uint32_t kSums = kPasses <= 2 ? kPasses : kPasses <= 4 ? 4 : round_up(kPasses, 8);
  static constexpr bool kAllLive = kChunks % 8 == 0 && kSlices % kOwners == 0;
  /// Chunks of a lane that are unpacked before the input is known: each takes 12 registers.
  static constexpr uint32_t kEarly = min_u32(kMostEarly, kLoops * kPasses);

  QuantVec<256> input[kWarps][kLoops];
  float partial[kOwners][kRows];

  struct Early {
    WeightChunk w[max_u32(kEarly, 1)];
  };

  static __device__ __forceinline__ uint32_t first_chunk_of(uint32_t loop) { return (warp_idx() % kOwners + loop * kOwners) * 8; }
  static __device__ __forceinline__ uint32_t chunk_of(uint32_t loop) { return first_chunk_of(loop) + lane_idx() % 8; }
  static __device__ __forceinline__ uint32_t row_of(uint32_t pass) {
    return (min_u32(warp_idx() / kOwners, kParts - 1) * kPasses + pass) * 4 + lane_idx() / 8;
  }

  /// The tile has arrived.
  template <uint32_t kType, uint32_t kStride>
  __device__ __forceinline__ void unpack(const uint8_t* tile, Early& early) const {
#pragma unroll
    for (uint32_t i = 0; i < kEarly; ++i) {
      early.w[i] = unpacked<kType, kStride>(tile, i / kPasses, i % kPasses);
      compute_here(early.w[i]);
    }
  }
  /// The warp's slices are in `input`. `ready(row)` returns once that row of the tile has arrived. Afterwards, behind a barrier,
  /// row() has the results.
  template <uint32_t kType, uint32_t kStride, class Ready>
  __device__ __forceinline__ void multiply(const uint8_t* tile, const Early& early, Ready&& ready) {
    float sums[kSums] = {};
#pragma unroll
    for (uint32_t l = 0; l < kLoops; ++l) {
      const bool live = kAllLive || chunk_of(l) < kChunks;
      const ActChunk act = input[warp_idx()][l].chunk(lane_idx() % 8);
#pragma unroll
      for (uint32_t p = 0; p < kPasses; ++p) {
        const uint32_t i = l * kPasses + p;
        if (i >= kEarly) ready(min_u32(row_of(p), kRows - 1));
        const float product = i < kEarly ? dot<kType>(early.w[i < kEarly ? i : 0], act) : dot<kType>(unpacked<kType, kStride>(tile, l, p), act);
        if (live) sums[p] += product;
      }
    }
    constexpr uint32_t kSet = min_u32(kSums, 8), kShare = 8 / kSet;
#pragma unroll
    for (uint32_t s = 0; s < kSums; s += kSet) {
      float v[kSet];
#pragma unroll
      for (uint32_t i = 0; i < kSet; ++i) v[i] = sums[s + i];
      const float sum = sum_of_8<kSet>(v);
      const uint32_t pass = s + lane_idx() % 8 / kShare, row = row_of(pass);
      const bool stores = lane_idx() % kShare == 0 && pass < kPasses && row < kRows && warp_idx() < kOwners * kParts;
      if (stores) partial[warp_idx() % kOwners][row] = sum;
    }
  }
  __device__ __forceinline__ float row(uint32_t r) const {
    float sum = 0.0f;
#pragma unroll
    for (uint32_t o = 0; o < kOwners; ++o) sum += partial[o][r];
    return sum;
  }

 private:
  template <uint32_t kType, uint32_t kStride>
  static __device__ __forceinline__ WeightChunk unpacked(const uint8_t* tile, uint32_t loop, uint32_t pass) {
    const uint32_t chunk = kAllLive ? chunk_of(loop) : min_u32(chunk_of(loop), kChunks - 1);
    return weight_chunk<kType, kDim>(tile + min_u32(row_of(pass), kRows - 1) * kStride, chunk);
  }
};

}  // namespace sj
