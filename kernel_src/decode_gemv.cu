// One decode stage: y = W x for up to four matrices that share their input (q, k, v), or one that ends a half layer:
// y = residual + W x, also quantised as the next stage's input and, before experts, multiplied with the router's rows.
// x: NormedVec or QuantVec of kCols    W: row records    A block owns kTileRows rows of one matrix, requested and unpacked
// before the dependency wait; warps split the columns.    spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/router_scores.cuh"

#include "args/decode_gemv.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes;
static_assert(!kFinishesRows || (kMatrices == 1 && kTileRows == 16), "a block finishes one group of 16 rows");
static_assert(kTileRows <= kThreads);
constexpr uint32_t kScored = kFinishesRows ? kExperts : 0, kCleared = kFinishesRows ? 0 : kExperts;   // experts

using WeightTile = Tile<kCols, kTileRows, kWarps, kEarlyChunks>;
constexpr uint32_t kFinishingWarps = ceil_div(kTileRows, kWarpLanes);   // a thread a row
struct Shared {
  uint64_t arrived;
  WeightTile tile;
  alignas(16) float finished[16];   // kScored > 0
};

template <uint32_t kMatrix>
__device__ __forceinline__ void run(const DecodeGemvArgs& args, uint8_t* weights, Shared& shared) {
  constexpr uint32_t kType = kMatrixTypes[kMatrix], kRowBytes = kMatrixRowBytes[kMatrix], kRows = kMatrixRows[kMatrix];
  constexpr uint32_t kFirstBlock = kMatrixFirstBlock[kMatrix], kFirstOut = kMatrixFirstOut[kMatrix];
  const uint32_t first_row = (blockIdx.x - kFirstBlock) * kTileRows, n_rows = min_u32(kRows - first_row, kTileRows);
  if (threadIdx.x == 0) {
    mbarrier_init(&shared.arrived, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect_tx(&shared.arrived, n_rows * kRowBytes);
    bulk_copy_to_shared(weights, args.weights[kMatrix] + static_cast<size_t>(first_row) * kRowBytes, n_rows * kRowBytes,
                        &shared.arrived);
  }
  const bool finishes = kFinishesRows && threadIdx.x < 16;
  const float next_norm = finishes ? args.next_norm[first_row + threadIdx.x] : 0.0f;
  ScoreParts<kScored, kRowsOut, kThreads> parts;
  if constexpr (kScored != 0) parts.fetch(args.router, args.next_norm, first_row);
  float bias = 0.0f;
  if (kHasBias && threadIdx.x < n_rows) bias = args.bias[kMatrix][first_row + threadIdx.x];
  __syncthreads();  // the mbarrier is initialised
  WeightTile::Early early;
  if constexpr (WeightTile::kEarly != 0) {
    mbarrier_wait(&shared.arrived, 0);
    shared.tile.template unpack<kType, kRowBytes>(weights, early);
  }
  if constexpr (!kFinishesRows) pdl_trigger();   // attention has much to read before it waits
  pdl_wait();
  if constexpr (kFinishesRows && kScored == 0) pdl_trigger();
  if constexpr (kCleared != 0) {
    for (uint32_t i = threadIdx.x; blockIdx.x == 0 && i < kCleared; i += kThreads) args.scores[score_index(i)] = 0;
  }
  WarpInput<kCols, WeightTile::kLoops> x;
  x.fetch(args.x, WeightTile::first_chunk_of);   // a NormedVec begins with a QuantVec
  InverseRms<kCols> rms;
  if (kIsNormed && warp_idx() < kFinishingWarps) rms.fetch(static_cast<const NormedVec<kCols>*>(args.x));
  const float residual = finishes ? load_float(args.residual + first_row + threadIdx.x) : 0.0f;
  x.store(args.x, WeightTile::first_chunk_of, shared.tile.input[warp_idx()]);
  mbarrier_wait(&shared.arrived, 0);
  shared.tile.template multiply<kType, kRowBytes>(weights, early, [](uint32_t) {});
  __syncthreads();  // every warp's partial sums are in shared memory
  float y = 0.0f;
  if (warp_idx() < kFinishingWarps) {
    const float factor = kIsNormed ? rms.factor(kEps) : 1.0f;
    if (threadIdx.x < n_rows) y = shared.tile.row(threadIdx.x) * factor + bias + residual;
  }
  if constexpr (kScored != 0) {
    if (finishes) shared.finished[threadIdx.x] = y;
    __syncthreads();  // the finished rows are in shared memory
    // The stage behind it can fetch nothing ahead. Started earlier, its blocks would crowd on the few SMs where no block of this
    // stage is, and the last of them would finish late.
    pdl_trigger();
    parts.add(shared.finished, args.scores);
  }
  if constexpr (kFinishesRows) {
    if (warp_idx() == 0) finish_rows<kRowsOut>(y, next_norm, first_row, args.y, static_cast<NormedVec<kRowsOut>*>(args.next));
  } else {
    if (threadIdx.x < n_rows) args.y[kFirstOut + first_row + threadIdx.x] = y;
  }
}

template <uint32_t kMatrix>
__device__ __forceinline__ void dispatch(const DecodeGemvArgs& args, uint8_t* weights, Shared& shared) {
  if constexpr (kMatrix + 1 < kMatrices) {
    constexpr uint32_t kNext = kMatrixFirstBlock[kMatrix + 1];
    if (blockIdx.x >= kNext) return dispatch<kMatrix + 1>(args, weights, shared);
  }
  run<kMatrix>(args, weights, shared);
}

extern "C" __global__ void __launch_bounds__(kThreads) sj_decode_gemv(const DecodeGemvArgs args) {
  extern __shared__ __align__(128) uint8_t weights[];
  __shared__ Shared shared;
  dispatch<0>(args, weights, shared);
}

}  // namespace sj
