// h = act(Wg x / rms) * (Wu x / rms), quantised. Dense, or for the experts that the router's scores choose; each block finds
// its expert itself.    x: NormedVec<kCols>    h: QuantVec<kUsed * kFf>    A block owns kHRows values of h: as many rows of
// gate and of up. Dense weights are requested before the dependency wait.    spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/activation.cuh"
#include "device/decode.cuh"
#include "device/router_scores.cuh"

#include "args/decode_glu.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes, kUnits = kFf / kHRows, kTileRows = 2 * kHRows;
constexpr uint32_t kArrivals = kTileRows / kArrivalRows;   // bulk copies, each with its own barrier
constexpr uint32_t kFinishingWarps = ceil_div(kHRows, kWarpLanes);   // a thread a row
static_assert(kFf % kHRows == 0 && kHRows % 16 == 0 && kHRows % kArrivalRows == 0 && kArrivals <= kWarpLanes && kHRows <= kThreads);

using WeightTile = Tile<kCols, kTileRows, kWarps, 0>;
struct Shared {
  uint64_t arrived[kArrivals];
  WeightTile tile;
};

/// Rows [row, row + kHRows) of gate, then of up; the pieces of both alternate, so that all warps can start.
__device__ __forceinline__ void request(const DecodeGluArgs& args, size_t row, uint8_t* weights, Shared& shared) {
  if (threadIdx.x >= kArrivals) return;
  const bool is_up = threadIdx.x % 2 != 0;
  const uint32_t piece = threadIdx.x / 2, slot = (is_up ? kArrivals / 2 : 0) + piece;
  const uint8_t* from = (is_up ? args.up : args.gate) + (row + piece * kArrivalRows) * kRowBytes;
  bulk_copy_to_shared(weights + slot * kArrivalRows * kRowBytes, from, kArrivalRows * kRowBytes, &shared.arrived[slot]);
}

extern "C" __global__ void __launch_bounds__(kThreads) sj_decode_glu(const DecodeGluArgs args) {
  extern __shared__ __align__(128) uint8_t weights[];
  __shared__ Shared shared;
  const uint32_t slot = blockIdx.x / kUnits, first = blockIdx.x % kUnits * kHRows;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kArrivals; ++i) mbarrier_init(&shared.arrived[i], 1);
    fence_mbarrier_init();
    for (uint32_t i = 0; i < kArrivals; ++i) mbarrier_arrive_expect_tx(&shared.arrived[i], kArrivalRows * kRowBytes);
  }
  __syncthreads();  // the mbarriers are initialised
  if (!kIsMoe && warp_idx() == 0) request(args, first, weights, shared);
  pdl_wait();
  pdl_trigger();   // the next stage reads the router's scores before its own wait: they are complete
  TopExperts<kExperts, kUsed> experts;
  if (kIsMoe && warp_idx() == 0) experts.fetch(args.scores);
  WarpInput<kCols, WeightTile::kLoops> x;
  x.fetch(args.x, WeightTile::first_chunk_of);   // a NormedVec begins with a QuantVec
  InverseRms<kCols> rms;
  if (warp_idx() < kFinishingWarps) rms.fetch(static_cast<const NormedVec<kCols>*>(args.x));
  if (kIsMoe && warp_idx() == 0) {
    experts.find(slot + 1);
    const uint32_t expert = __shfl_sync(kAllLanes, experts.id(), slot);
    request(args, static_cast<size_t>(expert) * kFf + first, weights, shared);
  }
  x.store(args.x, WeightTile::first_chunk_of, shared.tile.input[warp_idx()]);
  const float factor = warp_idx() < kFinishingWarps ? rms.factor(kEps) : 0.0f;
  WeightTile::Early none;
  shared.tile.template multiply<kType, kRowBytes>(weights, none,
                                                  [&](uint32_t row) { mbarrier_wait(&shared.arrived[row / kArrivalRows], 0); });
  __syncthreads();  // every warp's partial sums are in shared memory
  if (warp_idx() < kFinishingWarps) {
    const bool live = threadIdx.x < kHRows;
    float h = 0.0f;
    if (live) h = activate<kActivation>(shared.tile.row(threadIdx.x) * factor) * (shared.tile.row(kHRows + threadIdx.x) * factor);
    store_group<kUsed * kFf, kHRows == 16>(h, slot * kFf + first + threadIdx.x, static_cast<QuantVec<kUsed * kFf>*>(args.h), live);
  }
}

}  // namespace sj
