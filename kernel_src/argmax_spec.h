// Greedy sampling on the device. In: ArgmaxParams. Out: the spec of argmax.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct ArgmaxParams {
  uint32_t n_vocab = 0;
  uint32_t n_ring_slots = 0;       ///< a power of two
};

/// Greedy sampling: the token of the largest logit (lowest id on ties, NaN never wins, all NaN gives 0), published to the
/// state and the token ring; the state is advanced to the next step. Throws kUnsupported naming the broken rule.
KernelSpec argmax_spec(const ArgmaxParams& p);

}  // namespace sj
