// y[r,i] = w[i] * x[r,i] / sqrt(mean_i(x[r,i]^2) + eps) [+ residual[r,i]]                       (arXiv:1910.07467)
// x, y, residual: [kTokens * kRowsPerToken, kDim] f32    w: [kDim] f32
// kRowThreads threads a row (32 for short rows, else the whole block), kBlockRows rows a block    spec: rmsnorm_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/reduce.cuh"
#include "device/step.cuh"

#include "args/rmsnorm.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kRowThreads * kBlockRows;
constexpr uint32_t kQuads = kDim / 4;
constexpr uint32_t kQuadsPerThread = ceil_div(kQuads, kRowThreads);
static_assert(kDim % 4 == 0 && kQuadsPerThread <= 4, "a row is kept in registers");
static_assert(kRowThreads == kWarpLanes || kBlockRows == 1, "a row is a warp's or a block's");

extern "C" __global__ void __launch_bounds__(kThreads) sj_rmsnorm(const RmsNormArgs args) {
  __shared__ float scratch[kWarpLanes];
  pdl_trigger();
  const uint32_t thread = threadIdx.x % kRowThreads;
  float4 w[kQuadsPerThread], x[kQuadsPerThread];
#pragma unroll
  for (uint32_t i = 0; i < kQuadsPerThread; ++i) {
    const uint32_t quad = thread + i * kRowThreads;
    w[i] = make_float4(1, 1, 1, 1);
    if (kHasWeight && quad < kQuads) w[i] = reinterpret_cast<const float4*>(args.weight)[quad];
  }
  pdl_wait();
  const uint32_t row = blockIdx.x * kBlockRows + threadIdx.x / kRowThreads;
  // A block's rows may end in the middle of it only in the variant of one warp a row, which has no block barrier.
  if (row >= valid_tokens<kTokens>(args.state) * kRowsPerToken) return;

  const float4* x_row = reinterpret_cast<const float4*>(args.x + static_cast<size_t>(row) * kDim);
  float sum = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < kQuadsPerThread; ++i) {
    const uint32_t quad = thread + i * kRowThreads;
    x[i] = quad < kQuads ? x_row[quad] : make_float4(0, 0, 0, 0);
    sum = fmaf(x[i].x, x[i].x, sum);
    sum = fmaf(x[i].y, x[i].y, sum);
    sum = fmaf(x[i].z, x[i].z, sum);
    sum = fmaf(x[i].w, x[i].w, sum);
  }
  sum = block_sum<kRowThreads>(sum, scratch);
  const float factor = 1.0f / sqrtf(sum / kDim + kEps);

  const float4* residual = reinterpret_cast<const float4*>(args.residual + static_cast<size_t>(row) * kDim);
  float4* y_row = reinterpret_cast<float4*>(args.y + static_cast<size_t>(row) * kDim);
#pragma unroll
  for (uint32_t i = 0; i < kQuadsPerThread; ++i) {
    const uint32_t quad = thread + i * kRowThreads;
    if (quad >= kQuads) continue;
    float4 y = make_float4(x[i].x * factor * w[i].x, x[i].y * factor * w[i].y, x[i].z * factor * w[i].z,
                           x[i].w * factor * w[i].w);
    if constexpr (kHasResidual) {
      const float4 r = residual[quad];
      y = make_float4(r.x + y.x, r.y + y.y, r.z + y.z, r.w + y.w);
    }
    y_row[quad] = y;
  }
}

}  // namespace sj
