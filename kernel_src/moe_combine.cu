// y[t,m] = sum_s weights[t,s] * x[t,s,m], in slot order [+ residual[t,m]]
// x: [kTokens, kUsed, kCols] f32    weights: [kTokens, kUsed] f32    y, residual: [kTokens, kCols] f32
// one thread four columns    spec: moe_combine_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/moe_combine.h"

namespace sj {
using namespace baked;

static_assert(kCols % 4 == 0);

extern "C" __global__ void __launch_bounds__(kThreads) sj_moe_combine(const MoeCombineArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t quad = blockIdx.x * kThreads + threadIdx.x, t = blockIdx.y;
  if (quad >= kCols / 4 || t >= valid_tokens<kTokens>(args.state)) return;
  float4 y = make_float4(0, 0, 0, 0);
#pragma unroll
  for (uint32_t s = 0; s < kUsed; ++s) {
    const size_t pair = static_cast<size_t>(t) * kUsed + s;
    const float w = args.weights[pair];
    const float4 x = reinterpret_cast<const float4*>(args.x)[pair * (kCols / 4) + quad];
    y = make_float4(fmaf(w, x.x, y.x), fmaf(w, x.y, y.y), fmaf(w, x.z, y.z), fmaf(w, x.w, y.w));
  }
  const size_t i = static_cast<size_t>(t) * (kCols / 4) + quad;
  if constexpr (kHasResidual) {
    const float4 r = reinterpret_cast<const float4*>(args.residual)[i];
    y = make_float4(y.x + r.x, y.y + r.y, y.z + r.z, y.w + r.w);
  }
  reinterpret_cast<float4*>(args.y)[i] = y;
}

}  // namespace sj
