// Gated activation. In: GluParams (GluOp). Out: the spec of glu.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

enum class GluActivation : uint32_t { kSilu = 0, kGeluTanh = 1 };

struct GluParams {
  uint32_t n_per_token = 0;        ///< floats a token (slots * n_ff); a multiple of 4
  uint32_t n_tokens = 1;
  GluActivation activation = GluActivation::kSilu;
};

/// y = act(gate) * up. Throws kUnsupported naming the broken rule.
KernelSpec glu_spec(const GluParams& p);

}  // namespace sj
