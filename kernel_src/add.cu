// y[t,i] = a[t,i] + b[t,i]
// a, b, y: [kTokens, kPerToken] f32    one thread four elements    spec: add_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/add.h"

namespace sj {
using namespace baked;

static_assert(kPerToken % 4 == 0);

extern "C" __global__ void __launch_bounds__(kThreads) sj_add(const AddArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t quad = blockIdx.x * kThreads + threadIdx.x, t = blockIdx.y;
  if (quad >= kPerToken / 4 || t >= valid_tokens<kTokens>(args.state)) return;
  const size_t i = static_cast<size_t>(t) * (kPerToken / 4) + quad;
  const float4 a = reinterpret_cast<const float4*>(args.a)[i], b = reinterpret_cast<const float4*>(args.b)[i];
  reinterpret_cast<float4*>(args.y)[i] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

}  // namespace sj
