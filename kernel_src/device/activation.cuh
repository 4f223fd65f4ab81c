// Activation functions of gated feed-forward layers.
#pragma once

#include "device/ptx.cuh"
#include "device/types.cuh"

namespace sj {

/// Values of the baked kActivation (GluActivation on the host).
enum ActivationId : uint32_t { kActivationSilu = 0, kActivationGeluTanh = 1 };

/// silu: g / (1 + e^-g). gelu: g/2 (1 + tanh(z)) = g / (1 + e^-2z), z = sqrt(2/pi) (g + 0.044715 g^3): the second form has
/// no cancellation for negative g.
template <uint32_t kActivation>
__device__ __forceinline__ float activate(float g) {
  if constexpr (kActivation == kActivationSilu) {
    return g * rcp_approx(1.0f + expf(-g));
  } else {
    static_assert(kActivation == kActivationGeluTanh);
    const float z = 0.7978845608028654f * g * fmaf(0.044715f * g, g, 1.0f);
    return g * rcp_approx(1.0f + expf(-2.0f * z));
  }
}

}  // namespace sj
