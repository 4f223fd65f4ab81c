// The list of fusion rules, and the simple ones: a producer followed by the residual sum writes the sum itself.
// Each rule is one function (ctx, op_idx) -> ops consumed; 0: no match.
#include "runtime/fusion_decode.h"
#include "runtime/generic_ops.h"
#include "runtime/lowering.h"

namespace sj {
namespace {

/// The other operand when op `idx` is an AddOp of `x`, which nothing else reads; else kNoValue.
ValueId find_residual(const LoweringContext& ctx, size_t idx, ValueId x) {
  if (ctx.find<AddOp>(idx) == nullptr || ctx.n_uses(x) != 1) return kNoValue;
  const Op& add = ctx.op(idx);
  if (add.inputs[0] == add.inputs[1]) return kNoValue;
  if (add.inputs[0] == x) return add.inputs[1];
  return add.inputs[1] == x ? add.inputs[0] : kNoValue;
}

/// matmul, add -> matmul with a residual
size_t fuse_matmul_residual(LoweringContext& ctx, size_t i) {
  const MatmulOp* matmul = ctx.find<MatmulOp>(i);
  if (matmul == nullptr) return 0;
  const ValueId residual = find_residual(ctx, i + 1, ctx.op(i).outputs[0]);
  if (residual == kNoValue) return 0;
  lower_matmul(ctx, *matmul, ctx.op(i).inputs[0], residual, ctx.op(i + 1).outputs[0]);
  return 2;
}

/// rms_norm, add -> rms_norm with a residual (norms after a block, gemma)
size_t fuse_norm_residual(LoweringContext& ctx, size_t i) {
  const RmsNormOp* norm = ctx.find<RmsNormOp>(i);
  if (norm == nullptr) return 0;
  const ValueId residual = find_residual(ctx, i + 1, ctx.op(i).outputs[0]);
  if (residual == kNoValue) return 0;
  lower_rmsnorm(ctx, *norm, ctx.op(i).inputs[0], residual, ctx.op(i + 1).outputs[0]);
  return 2;
}

/// moe_combine, add -> moe_combine with a residual
size_t fuse_combine_residual(LoweringContext& ctx, size_t i) {
  if (ctx.find<MoeCombineOp>(i) == nullptr) return 0;
  const ValueId residual = find_residual(ctx, i + 1, ctx.op(i).outputs[0]);
  if (residual == kNoValue) return 0;
  lower_moe_combine(ctx, ctx.op(i).inputs[0], ctx.op(i).inputs[1], residual, ctx.op(i + 1).outputs[0]);
  return 2;
}

}  // namespace

std::span<const FusionRule> fusion_rules() {
  static const std::vector<FusionRule> kRules = {
      {"decode_attention", fuse_decode_attention},
      {"decode_moe", fuse_decode_moe},
      {"decode_ffn", fuse_decode_ffn},
      {"decode_head", fuse_decode_head},
      {"matmul_residual", fuse_matmul_residual},
      {"norm_residual", fuse_norm_residual},
      {"combine_residual", fuse_combine_residual},
  };
  return kRules;
}

}  // namespace sj
