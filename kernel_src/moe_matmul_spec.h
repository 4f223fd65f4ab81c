// Matrix product with the experts that the router chose. In: MoeMatmulParams (MoeMatmulOp). Out: the spec of moe_matmul.cu.
// Called by lowering.
#pragma once

#include <cstdint>

#include "jit/base/dtype.h"
#include "jit/kernel_spec.h"

namespace sj {

struct MoeMatmulParams {
  DType dtype = DType::kF32;
  uint32_t n_rows = 0, n_cols = 0;     ///< of one expert
  uint32_t expert_stride_rows = 0;     ///< row records from one expert to the next; 0: n_rows
  uint32_t n_experts = 0, n_used = 0;
  uint32_t n_tokens = 1;
  bool is_x_per_slot = false;          ///< x is [n_tokens, n_used, n_cols] instead of [n_tokens, n_cols]
  bool has_bias = false, has_result_scale = false;
};

/// y[t,s,m] = result_scale[e] * sum_k W[e][m,k] x[t,(s),k] + bias[e,m], e = ids[t,s] read on the device.
/// Throws kUnsupported naming the broken rule.
KernelSpec moe_matmul_spec(const MoeMatmulParams& p);

}  // namespace sj
