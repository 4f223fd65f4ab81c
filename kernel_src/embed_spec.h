// Token embedding from row records. In: EmbedParams (EmbedOp). Out: the spec of embed.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/base/dtype.h"
#include "jit/kernel_spec.h"

namespace sj {

struct EmbedParams {
  DType dtype = DType::kF32;       ///< of the table
  uint32_t n_vocab = 0, n_cols = 0;
  uint32_t n_tokens = 1;           ///< of the plan; StepState::n_tokens of them are valid
  float scale = 1;
  bool is_token_from_state = false;  ///< decode: StepState::token instead of EmbedArgs::tokens; needs n_tokens == 1
};

/// y[t,:] = scale * E[token[t],:]. An id outside the vocabulary gives a row of NaN, which sampling reports.
/// Throws kUnsupported naming the broken rule.
KernelSpec embed_spec(const EmbedParams& p);

}  // namespace sj
