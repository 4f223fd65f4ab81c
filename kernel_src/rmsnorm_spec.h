// RMS normalisation. In: RmsNormParams (RmsNormOp). Out: the spec of rmsnorm.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct RmsNormParams {
  uint32_t dim = 0;                ///< length of a row; a multiple of 4
  uint32_t rows_per_token = 1;     ///< > 1: per-head norms, [n_tokens, rows_per_token, dim]
  uint32_t n_tokens = 1;
  float eps = 0;
  bool has_weight = true;          ///< false: weight 1
  bool has_residual = false;       ///< y = residual + norm
};

/// y = w * x / sqrt(mean(x^2) + eps) [+ residual]. Rows of up to 512 are done by a warp, longer ones by a block.
/// Throws kUnsupported naming the broken rule.
KernelSpec rmsnorm_spec(const RmsNormParams& p);

}  // namespace sj
