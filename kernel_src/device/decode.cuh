// What the decode stages share: input vectors on their way into shared memory, tiles of weight rows, finished rows on their
// way to the next stage, and the choice of experts.
// A stage waits for the one before (pdl_wait) and only then lets the one behind start (pdl_trigger): earlier, its blocks would
// take room from the waiting stage's and leave the SMs unevenly filled, which costs more than their head start gains.
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

/// 16 neighbouring lanes hold a group of 16 values; value `idx` of the vector is this lane's. A whole warp calls it; lanes
/// whose group is not `live` store nothing.
template <uint32_t kDim>
__device__ __forceinline__ void store_group(float x, uint32_t idx, QuantVec<kDim>* out, bool live) {
  float largest = fabsf(x);
#pragma unroll
  for (uint32_t offset = 8; offset != 0; offset >>= 1) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
  const float d = largest * (1.0f / 127);
  const int32_t a = __float2int_rn(largest > 0.0f ? x * (127.0f / largest) : 0.0f);
  int32_t sum = a;
#pragma unroll
  for (uint32_t offset = 8; offset != 0; offset >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, offset);
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
  const float d = largest * (1.0f / 127), scale = largest > 0.0f ? 127.0f / largest : 0.0f;
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
  float squares = x * x;
#pragma unroll
  for (uint32_t offset = 8; offset != 0; offset >>= 1) squares += __shfl_xor_sync(kAllLanes, squares, offset);
  const bool live = lane_idx() < 16;
  store_group<kDim>(x * next_norm, row, &next->q, live);
  if (live) y[row] = x;
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
template <uint32_t kDim, uint32_t kRows, uint32_t kWarps, bool kMayUnpackEarly>
struct Tile {
  static constexpr uint32_t kChunks = kDim / 32, kSlices = ceil_div(kChunks, 8);
  static constexpr uint32_t kOwners = min_u32(kSlices, kWarps);            // warps with different slices
  static constexpr uint32_t kParts = kWarps / kOwners;                     // warps that share a slice
  static constexpr uint32_t kLoops = ceil_div(kSlices, kOwners);
  static constexpr uint32_t kPasses = ceil_div(kRows, 4 * kParts);         // a warp's rows, 4 at a time
  static constexpr uint32_t kSums = kPasses <= 2 ? kPasses : kPasses <= 4 ? 4 : round_up(kPasses, 8);
  static constexpr bool kAllLive = kChunks % 8 == 0 && kSlices % kOwners == 0;
  /// Unpacking everything before the input is known takes 12 registers a chunk.
  static constexpr bool kUnpacksEarly = kMayUnpackEarly && kLoops * kPasses <= 5;

  float partial[kOwners][kRows];

  struct Early {
    WeightChunk w[kUnpacksEarly ? kLoops * kPasses : 1];
  };

  static __device__ __forceinline__ uint32_t chunk_of(uint32_t loop) {
    return (warp_idx() % kOwners + loop * kOwners) * 8 + lane_idx() % 8;
  }
  static __device__ __forceinline__ uint32_t row_of(uint32_t pass) {
    return (min_u32(warp_idx() / kOwners, kParts - 1) * kPasses + pass) * 4 + lane_idx() / 8;
  }

  /// The tile has arrived.
  template <uint32_t kType, uint32_t kStride>
  __device__ __forceinline__ void unpack(const uint8_t* tile, Early& early) const {
    if constexpr (kUnpacksEarly) {
#pragma unroll
      for (uint32_t l = 0; l < kLoops; ++l) {
#pragma unroll
        for (uint32_t p = 0; p < kPasses; ++p) {
          WeightChunk& w = early.w[l * kPasses + p];
          const uint32_t chunk = kAllLive ? chunk_of(l) : min_u32(chunk_of(l), kChunks - 1);
          w = weight_chunk<kType, kDim>(tile + min_u32(row_of(p), kRows - 1) * kStride, chunk);
          compute_here(w);
        }
      }
    }
  }
  /// `ready(row)` returns once that row of the tile has arrived. Afterwards, behind a barrier, row() has the results.
  template <uint32_t kType, uint32_t kStride, class Ready>
  __device__ __forceinline__ void multiply(const uint8_t* tile, const QuantVec<kDim>& x, const Early& early, Ready&& ready) {
    float sums[kSums] = {};
#pragma unroll
    for (uint32_t l = 0; l < kLoops; ++l) {
      const uint32_t chunk = chunk_of(l);
      const bool live = kAllLive || chunk < kChunks;
      const ActChunk act = x.chunk(live ? chunk : 0);
#pragma unroll
      for (uint32_t p = 0; p < kPasses; ++p) {
        if constexpr (kUnpacksEarly) {
          if (live) sums[p] += dot<kType>(early.w[l * kPasses + p], act);
        } else {
          const uint32_t row = min_u32(row_of(p), kRows - 1);
          ready(row);
          if (live) sums[p] += dot<kType>(weight_chunk<kType, kDim>(tile + row * kStride, chunk), act);
        }
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
};

/// The kUsed largest of kExperts logits in descending order; each warp finds them for itself. Logits that agree in the upper
/// bits of their float (the lowest kIdBits are left out: a relative difference under 2^-14) count as ties: lower id first.
template <uint32_t kExperts, uint32_t kUsed>
struct TopExperts {
  static_assert(kExperts % 128 == 0 && kExperts <= 512 && kUsed <= kWarpLanes);
  static constexpr uint32_t kEach = kExperts / kWarpLanes, kIdMask = kExperts <= 128 ? 127 : kExperts <= 256 ? 255 : 511;
  float logit[kEach];
  uint32_t found = 0;   ///< lane r: key of rank r

  __device__ __forceinline__ void fetch(const float* logits) {
#pragma unroll
    for (uint32_t i = 0; i < kEach; i += 4) {
      const uint4 v = ld_cg_v4(logits + i * kWarpLanes + 4 * lane_idx());
      logit[i] = __uint_as_float(v.x), logit[i + 1] = __uint_as_float(v.y);
      logit[i + 2] = __uint_as_float(v.z), logit[i + 3] = __uint_as_float(v.w);
    }
  }
  /// Finds ranks 0 .. n_ranks - 1.
  __device__ __forceinline__ void find(uint32_t n_ranks) {
    uint32_t key[kEach];
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const uint32_t bits = logit[i] == logit[i] ? __float_as_uint(logit[i]) : 0xFF7FFFFFu;   // NaN ranks as the least float
      const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
      const uint32_t id = i / 4 * 128 + lane_idx() * 4 + i % 4;
      key[i] = (ordered & ~kIdMask) | (kIdMask - id);
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
  /// Lane r < kUsed: the softmax over the kUsed found. All ranks must have been found.
  __device__ __forceinline__ float weight() const {
    float mine = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const float v = __shfl_sync(kAllLanes, logit[i], id() / 4 % kWarpLanes);
      if (id() / 128 * 4 + id() % 4 == i) mine = v;
    }
    const float top = __shfl_sync(kAllLanes, mine, 0);
    const float e = lane_idx() < kUsed ? __expf(mine - top) : 0.0f;
    return e / warp_sum(e);
  }
};

}  // namespace sj
