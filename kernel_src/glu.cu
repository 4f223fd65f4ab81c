// y[t,i] = act(gate[t,i]) * up[t,i]
// act: silu g / (1 + e^-g), or gelu g/2 (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3)))
// gate, up, y: [kTokens, kPerToken] f32    one thread four elements    spec: glu_spec.cpp
#include "sj_baked.h"

#include "device/activation.cuh"
#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/glu.h"

namespace sj {
using namespace baked;

static_assert(kPerToken % 4 == 0);

extern "C" __global__ void __launch_bounds__(kThreads) sj_glu(const GluArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t quad = blockIdx.x * kThreads + threadIdx.x, t = blockIdx.y;
  if (quad >= kPerToken / 4 || t >= valid_tokens<kTokens>(args.state)) return;
  const size_t i = static_cast<size_t>(t) * (kPerToken / 4) + quad;
  const float4 g = reinterpret_cast<const float4*>(args.gate)[i], u = reinterpret_cast<const float4*>(args.up)[i];
  reinterpret_cast<float4*>(args.y)[i] = make_float4(activate<kActivation>(g.x) * u.x, activate<kActivation>(g.y) * u.y,
                                                     activate<kActivation>(g.z) * u.z, activate<kActivation>(g.w) * u.w);
}

}  // namespace sj
