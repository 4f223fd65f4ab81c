// y = residual + sum_s w_s Wd[e_s] h_s over the experts that the router's scores choose, in order of rank; y is also
// quantised as the next stage's input.    h: QuantVec<kUsed * kFf>    A block owns 16 rows of every chosen expert, a warp one
// expert (or a part of its rows).    The stage before triggers behind its own wait, so the scores are complete when this
// kernel starts: the weights are requested before the dependency wait.    spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/router_scores.cuh"

#include "args/decode_moe_down.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes, kTileRows = 16;
constexpr uint32_t kChunks = kFf / 32, kSlices = ceil_div(kChunks, 8), kParts = kWarps / kUsed, kPasses = 4 / kParts;
static_assert(kWarps % kUsed == 0 && kParts * kPasses == 4 && kRows % kTileRows == 0 && kUsed <= kWarpLanes);

struct Shared {
  QuantVec<256> input[kWarps][kSlices];
  uint64_t arrived[kUsed];
  float partial[kUsed][kTileRows];
};

extern "C" __global__ void __launch_bounds__(kThreads) sj_decode_moe_down(const DecodeMoeDownArgs args) {
  extern __shared__ __align__(128) uint8_t weights[];
  __shared__ Shared shared;
  const uint32_t first_row = blockIdx.x * kTileRows, rank = warp_idx() / kParts, part = warp_idx() % kParts;
  constexpr uint32_t kTileBytes = kTileRows * kRowBytes;
  TopExperts<kExperts, kUsed> experts;
  experts.fetch(args.scores);
  InverseRms<kRows> rms;
  rms.fetch(static_cast<const NormedVec<kRows>*>(args.x));
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kUsed; ++i) mbarrier_init(&shared.arrived[i], 1);
    fence_mbarrier_init();
    for (uint32_t i = 0; i < kUsed; ++i) mbarrier_arrive_expect_tx(&shared.arrived[i], kTileBytes);
  }
  __syncwarp();  // the mbarriers are initialised for the first warp
  experts.find(kUsed);
  if (threadIdx.x < kUsed) {
    bulk_copy_to_shared(weights + threadIdx.x * kTileBytes,
                        args.weights + (static_cast<size_t>(experts.id()) * kRows + first_row) * kRowBytes, kTileBytes,
                        &shared.arrived[threadIdx.x]);
  }
  const float weight = __shfl_sync(kAllLanes, experts.weight(rms.factor(kEps)), rank);
  const bool finishes = threadIdx.x < kTileRows;
  const float next_norm = finishes ? args.next_norm[first_row + threadIdx.x] : 0.0f;
  __syncthreads();  // the mbarriers are initialised
  const auto first_chunk_of = [&](uint32_t s) { return rank * kChunks + s * 8; };
  pdl_trigger();
  pdl_wait();
  WarpInput<kUsed * kFf, kSlices> h;
  h.fetch(args.h, first_chunk_of);
  const float residual = finishes ? load_float(args.residual + first_row + threadIdx.x) : 0.0f;
  h.store(args.h, first_chunk_of, shared.input[warp_idx()]);
  mbarrier_wait(&shared.arrived[rank], 0);
  const uint8_t* tile = weights + rank * kTileBytes;
  float sums[kPasses] = {};
#pragma unroll
  for (uint32_t s = 0; s < kSlices; ++s) {
    const bool live = kChunks % 8 == 0 || s * 8 + lane_idx() % 8 < kChunks;
    const uint32_t chunk = min_u32(s * 8 + lane_idx() % 8, kChunks - 1);
    const ActChunk act = shared.input[warp_idx()][s].chunk(lane_idx() % 8);
#pragma unroll
    for (uint32_t p = 0; p < kPasses; ++p) {
      const uint8_t* row = tile + ((part * kPasses + p) * 4 + lane_idx() / 8) * kRowBytes;
      const float product = dot<kType>(weight_chunk<kType, kFf>(row, chunk), act);
      if (live) sums[p] += product;
    }
  }
  const float sum = sum_of_8<kPasses>(sums) * weight;
  constexpr uint32_t kShare = 8 / kPasses;
  if (lane_idx() % kShare == 0) shared.partial[rank][(part * kPasses + lane_idx() % 8 / kShare) * 4 + lane_idx() / 8] = sum;
  __syncthreads();  // every expert's sums are in shared memory
  if (warp_idx() == 0) {
    float y = residual;
#pragma unroll
    for (uint32_t s = 0; s < kUsed; ++s) y += shared.partial[s][lane_idx() % kTileRows];
    finish_rows<kRows>(finishes ? y : 0.0f, next_norm, first_row, args.y, static_cast<NormedVec<kRows>*>(args.next));
  }
}

}  // namespace sj
