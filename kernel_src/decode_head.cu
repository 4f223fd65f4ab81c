// y = W x / rms + b for a matrix of many rows (the vocabulary); with kSamples also the next token: the lowest row with the
// largest y. x: NormedVec<kCols>    Each warp streams its rows through a
// ring of kSlots slots of kSlotRows rows; the first ones are requested before the dependency wait.
// spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/sample.cuh"

#include "args/decode_head.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes, kChunks = kCols / 32, kSlotBytes = kSlotRows * kRowBytes;
static_assert(kSlotRows == 1 || kSlotRows == 2 || kSlotRows == 4 || kSlotRows == 8);

struct Shared {
  NormedVec<kCols> x;
  uint64_t arrived[kWarps][kSlots];
  uint64_t warp_best[kWarps];
  uint32_t has_nan;
};

/// Sums kSlotRows values over the warp: lane l gets value l * kSlotRows / 32.
__device__ __forceinline__ float sum_of_32(float (&v)[kSlotRows]) {
  uint32_t offset = 16;
#pragma unroll
  for (uint32_t n = kSlotRows; n > 1; n /= 2) {
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

extern "C" __global__ void __launch_bounds__(kThreads) sj_decode_head(const DecodeHeadArgs args) {
  extern __shared__ __align__(128) uint8_t rings[];   // [kWarps][kSlots][kSlotBytes]
  __shared__ Shared shared;
  pdl_trigger();
  if (kSamples && threadIdx.x == 0) shared.has_nan = 0;
  const uint32_t first_row = min_u32((blockIdx.x * kWarps + warp_idx()) * kWarpRows, kRows);
  const uint32_t n_rows = min_u32(kRows - first_row, kWarpRows), n_items = ceil_div(n_rows, kSlotRows);
  const uint8_t* from = args.weights + static_cast<size_t>(first_row) * kRowBytes;
  uint8_t* ring = rings + warp_idx() * kSlots * kSlotBytes;
  uint64_t* arrived = shared.arrived[warp_idx()];
  const auto request = [&](uint32_t item) {   // one lane
    const uint32_t slot = item % kSlots, n_bytes = min_u32(n_rows - item * kSlotRows, kSlotRows) * kRowBytes;
    mbarrier_arrive_expect_tx(&arrived[slot], n_bytes);
    bulk_copy_to_shared(ring + slot * kSlotBytes, from + item * kSlotBytes, n_bytes, &arrived[slot]);
  };
  if (lane_idx() == 0) {
    for (uint32_t i = 0; i < kSlots; ++i) mbarrier_init(&arrived[i], 1);
    fence_mbarrier_init();
    for (uint32_t i = 0; i < min_u32(kSlots, n_items); ++i) request(i);
  }
  pdl_wait();
  SharedLoad<NormedVec<kCols>, kThreads> x;
  x.fetch(args.x);
  x.store(shared.x);
  __syncthreads();  // x is complete, the mbarriers are initialised
  const float factor = inverse_rms<kCols>(shared.x, kEps);
  uint64_t best = 0;
  bool has_nan = false;
  for (uint32_t item = 0; item < n_items; ++item) {
    const uint32_t slot = item % kSlots;
    mbarrier_wait(&arrived[slot], item / kSlots % 2);
    const uint8_t* rows = ring + slot * kSlotBytes;
    const uint32_t n_live = min_u32(n_rows - item * kSlotRows, kSlotRows);
    float sums[kSlotRows] = {};
#pragma unroll
    for (uint32_t i = 0; i < ceil_div(kChunks, kWarpLanes); ++i) {
      const uint32_t chunk = i * kWarpLanes + lane_idx();
      if (kChunks % kWarpLanes != 0 && chunk >= kChunks) continue;
      const ActChunk act = shared.x.q.chunk(chunk);
#pragma unroll
      for (uint32_t r = 0; r < kSlotRows; ++r)
        sums[r] += dot<kType>(weight_chunk<kType, kCols>(rows + min_u32(r, n_live - 1) * kRowBytes, chunk), act);
    }
    const float sum = sum_of_32(sums) * factor;
    const uint32_t r = lane_idx() * kSlotRows / kWarpLanes, row = first_row + item * kSlotRows + r;
    if (lane_idx() % (kWarpLanes / kSlotRows) == 0 && r < n_live) {
      const float y = kHasBias ? sum + args.bias[row] : sum;
      args.y[row] = y;
      const uint64_t key = argmax_key(y, row);
      best = key > best ? key : best;
      has_nan |= y != y;
    }
    __syncwarp();  // every lane has read the slot
    if (item + kSlots < n_items && lane_idx() == 0) request(item + kSlots);
  }
  if constexpr (kSamples) {
    best = warp_max(best);
    if (lane_idx() == 0) shared.warp_best[warp_idx()] = best;
    if (has_nan) atomicOr(&shared.has_nan, 1u);
    __syncthreads();  // every warp's best and flag are in shared memory
    if (threadIdx.x != 0) return;
#pragma unroll
    for (uint32_t w = 1; w < kWarps; ++w) best = shared.warp_best[w] > best ? shared.warp_best[w] : best;
    sample_greedy<kRingSlots>(args.sample, best, shared.has_nan != 0);
  }
}

}  // namespace sj
