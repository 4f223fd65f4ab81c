// y[t,m] = result_scale * sum_k W[m,k] x[t,k] + bias[m] [+ residual[t,m]], few tokens
// W: [kRows] row records of kCols weights    x: [kTokens, kCols] f32    y, residual: [kTokens, kRows] f32
// a warp a row, kWarps rows a block; the block shares tiles of x    spec: matmul_spec.cpp
#include "sj_baked.h"

#include "device/row_dot.cuh"
#include "device/step.cuh"

#include "args/matmul.h"

namespace sj {
using namespace baked;

extern "C" __global__ void __launch_bounds__(kWarps * kWarpLanes) sj_gemv(const MatmulArgs args) {
  __shared__ __align__(16) float tile[VectorTile<kCols, kTokens>::kFloats];
  pdl_trigger();
  const uint32_t row = blockIdx.x * kWarps + threadIdx.x / kWarpLanes;
  const uint32_t safe_row = min_u32(row, kRows - 1);
  const uint8_t* weight_row = args.weight + static_cast<size_t>(safe_row) * kRowBytes;
  float w[32];
  load_first_chunk<kDtype, kCols>(weight_row, w);
  pdl_wait();

  const uint32_t n_valid = valid_tokens<kTokens>(args.state);
  float acc[kTokens];
  row_dot<kDtype, kCols, kTokens, kWarps * kWarpLanes>(weight_row, w, args.x, n_valid, tile, acc);

  const uint32_t lane = threadIdx.x % kWarpLanes;
  if (row >= kRows) return;
#pragma unroll
  for (uint32_t t = 0; t < kTokens; ++t) {
    if (lane != t || t >= n_valid) continue;
    float y = acc[t];
    if constexpr (kHasResultScale) y *= args.result_scale[0];
    if constexpr (kHasBias) y += args.bias[row];
    const size_t i = static_cast<size_t>(t) * kRows + row;
    if constexpr (kHasResidual) y += args.residual[i];
    args.y[i] = y;
  }
}

}  // namespace sj
