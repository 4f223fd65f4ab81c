// Weighted sum of the experts' results. In: MoeCombineParams (MoeCombineOp). Out: the spec of moe_combine.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct MoeCombineParams {
  uint32_t n_cols = 0;             ///< a multiple of 4
  uint32_t n_used = 0;
  uint32_t n_tokens = 1;
  bool has_residual = false;       ///< added last
};

/// y[t,m] = sum_s weights[t,s] * x[t,s,m], in slot order [+ residual[t,m]]. Throws kUnsupported naming the broken rule.
KernelSpec moe_combine_spec(const MoeCombineParams& p);

}  // namespace sj
