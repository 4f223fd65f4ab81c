// Choice of experts. In: RouteParams (RouteOp). Out: the spec of route.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct RouteParams {
  uint32_t n_experts = 0;          ///< up to 512
  uint32_t n_used = 0;             ///< up to 32
  uint32_t n_tokens = 1;
};

/// ids of the n_used largest logits, descending, ties by lower id; weights = softmax over those logits. NaN logits lose
/// against every number. Throws kUnsupported naming the broken rule.
KernelSpec route_spec(const RouteParams& p);

}  // namespace sj
