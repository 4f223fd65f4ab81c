// y[t,m] = result_scale * sum_k W[m,k] x[t,k] + bias[m] [+ residual[t,m]], many tokens
// W: [kRows] row records of kCols weights    x: [kTokens, kCols] f32    y, residual: [kTokens, kRows] f32
// A block makes a tile of 64 rows x 64 tokens: 64 columns at a time it dequantises W into shared memory (a chunk a thread)
// and copies x there; each of the 128 threads sums 8 rows x 4 tokens in f32.    spec: matmul_spec.cpp
#include "sj_baked.h"

#include "device/step.cuh"
#include "device/weight_rows.cuh"

#include "args/matmul.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = 128;
constexpr uint32_t kTileRows = 64, kTileTokens = 64, kTileCols = 64;
constexpr uint32_t kStride = 68;  // floats from one column of a tile to the next: rows stay 16-byte aligned
static_assert(kCols % 4 == 0 && kTileRows * kTileCols / kChunkWeights == kThreads, "one chunk a thread");

/// Writes W[first_row + .., first_col + ..] as w_tile[col][row]; zeros outside the matrix.
__device__ __forceinline__ void stage_weights(const uint8_t* weight, uint32_t first_row, uint32_t first_col, float* w_tile) {
  const uint32_t row = threadIdx.x % kTileRows, part = threadIdx.x / kTileRows;
  const uint32_t col = first_col + part * kChunkWeights;
  float w[32];
  if (first_row + row < kRows && col < kCols) {
    dequant_chunk<kDtype>(weight + static_cast<size_t>(first_row + row) * kRowBytes, kCols, col / kChunkWeights, w);
  } else {
#pragma unroll
    for (int i = 0; i < 32; ++i) w[i] = 0.0f;
  }
#pragma unroll
  for (uint32_t i = 0; i < 32; ++i) w_tile[(part * kChunkWeights + i) * kStride + row] = w[i];
}

/// Writes x[first_token + .., first_col + ..] as x_tile[col][token]; zeros outside the valid part.
__device__ __forceinline__ void stage_x(const float* x, uint32_t n_valid, uint32_t first_token, uint32_t first_col,
                                        float* x_tile) {
#pragma unroll
  for (uint32_t i = 0; i < kTileTokens * kTileCols / 4 / kThreads; ++i) {
    const uint32_t item = threadIdx.x + i * kThreads;
    const uint32_t token = item % kTileTokens, quad = item / kTileTokens;
    const uint32_t col = first_col + quad * 4;
    float4 v = make_float4(0, 0, 0, 0);
    if (first_token + token < n_valid && col < kCols)
      v = *reinterpret_cast<const float4*>(x + static_cast<size_t>(first_token + token) * kCols + col);
    float* to = x_tile + quad * 4 * kStride + token;
    to[0] = v.x, to[kStride] = v.y, to[2 * kStride] = v.z, to[3 * kStride] = v.w;
  }
}

extern "C" __global__ void __launch_bounds__(kThreads) sj_gemm(const MatmulArgs args) {
  __shared__ __align__(16) float w_tile[kTileCols * kStride];
  __shared__ __align__(16) float x_tile[kTileCols * kStride];
  pdl_trigger();
  const uint32_t first_row = blockIdx.x * kTileRows, first_token = blockIdx.y * kTileTokens;
  stage_weights(args.weight, first_row, 0, w_tile);
  pdl_wait();
  const uint32_t n_valid = valid_tokens<kTokens>(args.state);
  if (first_token >= n_valid) return;

  const uint32_t my_row = threadIdx.x / 16 * 8, my_token = threadIdx.x % 16 * 4;
  float acc[8][4] = {};
  for (uint32_t first_col = 0; first_col < kCols; first_col += kTileCols) {
    if (first_col != 0) {
      __syncthreads();  // every thread is done with the previous tiles
      stage_weights(args.weight, first_row, first_col, w_tile);
    }
    stage_x(args.x, n_valid, first_token, first_col, x_tile);
    __syncthreads();  // the tiles are complete
#pragma unroll 4
    for (uint32_t k = 0; k < kTileCols; ++k) {
      const float4 w0 = *reinterpret_cast<const float4*>(w_tile + k * kStride + my_row);
      const float4 w1 = *reinterpret_cast<const float4*>(w_tile + k * kStride + my_row + 4);
      const float4 xv = *reinterpret_cast<const float4*>(x_tile + k * kStride + my_token);
      const float w[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
      const float x[4] = {xv.x, xv.y, xv.z, xv.w};
#pragma unroll
      for (int r = 0; r < 8; ++r)
#pragma unroll
        for (int t = 0; t < 4; ++t) acc[r][t] = fmaf(w[r], x[t], acc[r][t]);
    }
  }

#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) {
    const uint32_t token = first_token + my_token + t;
    if (token >= n_valid) continue;
#pragma unroll
    for (uint32_t r = 0; r < 8; ++r) {
      const uint32_t row = first_row + my_row + r;
      if (row >= kRows) continue;
      float y = acc[r][t];
      if constexpr (kHasResultScale) y *= args.result_scale[0];
      if constexpr (kHasBias) y += args.bias[row];
      const size_t i = static_cast<size_t>(token) * kRows + row;
      if constexpr (kHasResidual) y += args.residual[i];
      args.y[i] = y;
    }
  }
}

}  // namespace sj
