// Launches of the generic families, as one-op lowering and the fusion rules need them; `residual` is kNoValue without one.
#pragma once

#include "kernel_src/matmul_spec.h"
#include "runtime/lowering.h"

namespace sj {

/// A size of the model as kernels take it.
inline uint32_t narrow(uint64_t n) { return static_cast<uint32_t>(n); }

/// y = w * x / rms(x) [+ residual]
void lower_rmsnorm(LoweringContext& ctx, const RmsNormOp& norm, ValueId x, ValueId residual, ValueId y);
/// y = W x + b [+ residual]
void lower_matmul(LoweringContext& ctx, const MatmulOp& matmul, ValueId x, ValueId residual, ValueId y);
/// y = sum_s weights[s] * x[s] [+ residual]
void lower_moe_combine(LoweringContext& ctx, ValueId x, ValueId weights, ValueId residual, ValueId y);

MatmulParams matmul_params(const MatmulOp& matmul, uint32_t n_tokens, bool has_residual);
/// What attention moves and computes for each key in the cache.
CostPerKey attention_cost_per_key(const AttentionOp& attention, uint32_t n_tokens, KvType kv_type);

}  // namespace sj
