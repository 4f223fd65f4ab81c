// Sum of two activations. In: AddParams (AddOp). Out: the spec of add.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct AddParams {
  uint32_t n_per_token = 0;        ///< floats a token; a multiple of 4
  uint32_t n_tokens = 1;
};

/// y = a + b. Throws kUnsupported naming the broken rule.
KernelSpec add_spec(const AddParams& p);

}  // namespace sj
