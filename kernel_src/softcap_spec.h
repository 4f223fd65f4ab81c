// Soft cap of logits. In: SoftcapParams (SoftcapOp). Out: the spec of softcap.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct SoftcapParams {
  uint32_t n_per_token = 0;        ///< a multiple of 4
  uint32_t n_tokens = 1;
  float cap = 0;                   ///< > 0
};

/// y = cap * tanh(x / cap). Throws kUnsupported naming the broken rule.
KernelSpec softcap_spec(const SoftcapParams& p);

}  // namespace sj
