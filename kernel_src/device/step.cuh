// What every batched kernel reads from the step's state, after pdl_wait().
#pragma once

#include "device/types.cuh"

#include "args/step_state.h"

namespace sj {

/// Valid tokens of the step in a plan of kTokens. A plan of one token always has one: its kernels don't read the state.
template <uint32_t kTokens>
__device__ __forceinline__ uint32_t valid_tokens(const StepState* state) {
  if constexpr (kTokens == 1) {
    return 1;
  } else {
    const int32_t n = state->n_tokens;
    return n < 0 ? 0 : min_u32(static_cast<uint32_t>(n), kTokens);
  }
}

}  // namespace sj
