// One decode stage: y = W x for up to four matrices that share their input (q, k, v), or one that ends a half layer:
// y = residual + W x, also quantised as the next stage's input.
// x: NormedVec or QuantVec of kCols    W: row records    A block owns kTileRows rows of one matrix, requested and unpacked
// before the dependency wait; warps split the columns.    spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"

#include "args/decode_gemv.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes;
static_assert(!kFinishesRows || (kMatrices == 1 && kTileRows == 16), "a block finishes one group of 16 rows");
static_assert(kTileRows <= kThreads);

template <bool kNormed>
struct Input;
template <>
struct Input<true> {
  using Vec = NormedVec<kCols>;
  static __device__ __forceinline__ const QuantVec<kCols>& quants(const Vec& x) { return x.q; }
  static __device__ __forceinline__ float factor(const Vec& x) { return inverse_rms<kCols>(x, kEps); }
};
template <>
struct Input<false> {
  using Vec = QuantVec<kCols>;
  static __device__ __forceinline__ const QuantVec<kCols>& quants(const Vec& x) { return x; }
  static __device__ __forceinline__ float factor(const Vec&) { return 1.0f; }
};
using In = Input<kIsNormed>;

using WeightTile = Tile<kCols, kTileRows, kWarps, true>;
struct Shared {
  In::Vec x;
  uint64_t arrived;
  WeightTile tile;
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
  float bias = 0.0f;
  if (kHasBias && threadIdx.x < n_rows) bias = args.bias[kMatrix][first_row + threadIdx.x];
  __syncthreads();  // the mbarrier is initialised
  WeightTile::Early early;
  if constexpr (WeightTile::kUnpacksEarly) {
    mbarrier_wait(&shared.arrived, 0);
    shared.tile.template unpack<kType, kRowBytes>(weights, early);
  }
  pdl_wait();
  pdl_trigger();
  SharedLoad<In::Vec, kThreads> x;
  x.fetch(args.x);
  const float residual = finishes ? load_float(args.residual + first_row + threadIdx.x) : 0.0f;
  x.store(shared.x);
  __syncthreads();  // x is complete
  const float factor = In::factor(shared.x);
  mbarrier_wait(&shared.arrived, 0);
  shared.tile.template multiply<kType, kRowBytes>(weights, In::quants(shared.x), early, [](uint32_t) {});
  __syncthreads();  // every warp's partial sums are in shared memory
  if constexpr (kFinishesRows) {
    if (warp_idx() == 0)
      finish_rows<kRowsOut>(finishes ? shared.tile.row(threadIdx.x) * factor + bias + residual : 0.0f, next_norm, first_row,
                            args.y, static_cast<NormedVec<kRowsOut>*>(args.next));
  } else {
    if (threadIdx.x < n_rows) args.y[kFirstOut + first_row + threadIdx.x] = shared.tile.row(threadIdx.x) * factor + bias;
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
