// y[t,i] = kCap * tanh(x[t,i] / kCap)
// x, y: [kTokens, kPerToken] f32    one thread four elements    spec: softcap_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/softcap.h"

namespace sj {
using namespace baked;

static_assert(kPerToken % 4 == 0);

__device__ __forceinline__ float softcap(float x) { return kCap * tanhf(x / kCap); }

extern "C" __global__ void __launch_bounds__(kThreads) sj_softcap(const SoftcapArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t quad = blockIdx.x * kThreads + threadIdx.x, t = blockIdx.y;
  if (quad >= kPerToken / 4 || t >= valid_tokens<kTokens>(args.state)) return;
  const size_t i = static_cast<size_t>(t) * (kPerToken / 4) + quad;
  const float4 x = reinterpret_cast<const float4*>(args.x)[i];
  reinterpret_cast<float4*>(args.y)[i] = make_float4(softcap(x.x), softcap(x.y), softcap(x.z), softcap(x.w));
}

}  // namespace sj
