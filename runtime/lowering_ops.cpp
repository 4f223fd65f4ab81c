// Generic lowering: one function an op kind, one launch an op. Slow but complete; fusion rules come before it.
#include <cstddef>
#include <type_traits>

#include <fmt/format.h>

#include "kernel_src/add_spec.h"
#include "kernel_src/args/add.h"
#include "kernel_src/args/attention.h"
#include "kernel_src/args/embed.h"
#include "kernel_src/args/glu.h"
#include "kernel_src/args/kv_append.h"
#include "kernel_src/args/matmul.h"
#include "kernel_src/args/moe_combine.h"
#include "kernel_src/args/moe_matmul.h"
#include "kernel_src/args/rmsnorm.h"
#include "kernel_src/args/rope.h"
#include "kernel_src/args/route.h"
#include "kernel_src/args/select_rows.h"
#include "kernel_src/args/softcap.h"
#include "kernel_src/attention_spec.h"
#include "kernel_src/embed_spec.h"
#include "kernel_src/glu_spec.h"
#include "kernel_src/kv_append_spec.h"
#include "kernel_src/moe_combine_spec.h"
#include "kernel_src/moe_matmul_spec.h"
#include "kernel_src/rmsnorm_spec.h"
#include "kernel_src/rope_spec.h"
#include "kernel_src/route_spec.h"
#include "kernel_src/select_rows_spec.h"
#include "kernel_src/softcap_spec.h"
#include "runtime/generic_ops.h"

namespace sj {
namespace {

void lower(LoweringContext& ctx, const Op& op, const EmbedOp& embed) {
  const bool is_decode = ctx.n_tokens() == 1;
  LoweredLaunch launch = make_launch(embed_spec({.dtype = embed.weight.dtype,
                                                 .n_vocab = narrow(embed.weight.n_rows),
                                                 .n_cols = narrow(embed.weight.n_cols),
                                                 .n_tokens = ctx.n_tokens(),
                                                 .scale = embed.scale,
                                                 .is_token_from_state = is_decode}),
                                     EmbedArgs{},
                                     {{offsetof(EmbedArgs, table), ctx.weight(embed.weight)},
                                      {offsetof(EmbedArgs, y), ctx.value(op.outputs[0])},
                                      {offsetof(EmbedArgs, state), ctx.step_state()}});
  if (!is_decode) launch.patches.push_back({offsetof(EmbedArgs, tokens), ctx.tokens()});
  ctx.emit(std::move(launch));
}

void lower(LoweringContext& ctx, const Op& op, const RmsNormOp& norm) {
  lower_rmsnorm(ctx, norm, op.inputs[0], kNoValue, op.outputs[0]);
}

void lower(LoweringContext& ctx, const Op& op, const MatmulOp& matmul) {
  lower_matmul(ctx, matmul, op.inputs[0], kNoValue, op.outputs[0]);
}

void lower(LoweringContext& ctx, const Op& op, const RopeOp& rope) {
  const Value& x = ctx.graph_value(op.inputs[0]);
  ctx.launch(rope_spec({.n_heads = narrow(x.shape[1]),
                        .head_dim = narrow(x.shape[2]),
                        .n_rot = rope.rope.n_rot,
                        .n_tokens = ctx.n_rows(op.inputs[0]),
                        .is_interleaved = rope.rope.pairing == RopePairing::kInterleaved,
                        .magnitude = rope.rope.magnitude}),
             RopeArgs{},
             {{offsetof(RopeArgs, x), ctx.value(op.inputs[0])},
              {offsetof(RopeArgs, turns), ctx.rope_table(rope.rope)},
              {offsetof(RopeArgs, y), ctx.value(op.outputs[0])},
              {offsetof(RopeArgs, state), ctx.step_state()}});
}

void lower(LoweringContext& ctx, const Op& op, const KvAppendOp& append) {
  const Value& k = ctx.graph_value(op.inputs[0]);
  ctx.launch(kv_append_spec({.n_head_kv = narrow(k.shape[1]), .head_dim = narrow(k.shape[2]), .n_tokens = ctx.n_rows(op.inputs[0]),
                             .kv_type = ctx.kv_type()}),
             KvAppendArgs{},
             {{offsetof(KvAppendArgs, k), ctx.value(op.inputs[0])},
              {offsetof(KvAppendArgs, v), ctx.value(op.inputs[1])},
              {offsetof(KvAppendArgs, k_pages), ctx.k_pages(append.layer_idx)},
              {offsetof(KvAppendArgs, v_pages), ctx.v_pages(append.layer_idx)},
              {offsetof(KvAppendArgs, page_table), ctx.page_table()},
              {offsetof(KvAppendArgs, state), ctx.step_state()}});
}

void lower(LoweringContext& ctx, const Op& op, const AttentionOp& attention) {
  const uint32_t n_tokens = ctx.n_rows(op.inputs[0]);
  LoweredLaunch launch = make_launch(attention_spec({.n_head = attention.n_head,
                                                     .n_head_kv = attention.n_head_kv,
                                                     .head_dim = attention.head_dim,
                                                     .n_tokens = n_tokens,
                                                     .scale = attention.scale,
                                                     .window_tokens = attention.window_tokens,
                                                     .kv_type = ctx.kv_type()}),
                                     AttentionArgs{},
                                     {{offsetof(AttentionArgs, q), ctx.value(op.inputs[0])},
                                      {offsetof(AttentionArgs, k_pages), ctx.k_pages(attention.layer_idx)},
                                      {offsetof(AttentionArgs, v_pages), ctx.v_pages(attention.layer_idx)},
                                      {offsetof(AttentionArgs, page_table), ctx.page_table()},
                                      {offsetof(AttentionArgs, y), ctx.value(op.outputs[0])},
                                      {offsetof(AttentionArgs, state), ctx.step_state()}});
  launch.spec.cost = {.bytes = 8.0 * n_tokens * attention.n_head * attention.head_dim, .flops = 0};   // q and y
  launch.per_key = attention_cost_per_key(attention, n_tokens, ctx.kv_type());
  ctx.emit(std::move(launch));
}

void lower(LoweringContext& ctx, const Op& op, const AddOp&) {
  ctx.launch(add_spec({.n_per_token = ctx.row_elems(op.inputs[0]), .n_tokens = ctx.n_rows(op.inputs[0])}), AddArgs{},
             {{offsetof(AddArgs, a), ctx.value(op.inputs[0])},
              {offsetof(AddArgs, b), ctx.value(op.inputs[1])},
              {offsetof(AddArgs, y), ctx.value(op.outputs[0])},
              {offsetof(AddArgs, state), ctx.step_state()}});
}

void lower(LoweringContext& ctx, const Op& op, const GluOp& glu) {
  ctx.launch(glu_spec({.n_per_token = ctx.row_elems(op.inputs[0]),
                       .n_tokens = ctx.n_rows(op.inputs[0]),
                       .activation = glu.activation == Activation::kSilu ? GluActivation::kSilu : GluActivation::kGeluTanh}),
             GluArgs{},
             {{offsetof(GluArgs, gate), ctx.value(op.inputs[0])},
              {offsetof(GluArgs, up), ctx.value(op.inputs[1])},
              {offsetof(GluArgs, y), ctx.value(op.outputs[0])},
              {offsetof(GluArgs, state), ctx.step_state()}});
}

void lower(LoweringContext& ctx, const Op& op, const RouteOp& route) {
  ctx.launch(route_spec({.n_experts = route.n_experts, .n_used = route.n_used, .n_tokens = ctx.n_rows(op.inputs[0])}),
             RouteArgs{},
             {{offsetof(RouteArgs, logits), ctx.value(op.inputs[0])},
              {offsetof(RouteArgs, ids), ctx.value(op.outputs[0])},
              {offsetof(RouteArgs, weights), ctx.value(op.outputs[1])},
              {offsetof(RouteArgs, state), ctx.step_state()}});
}

void lower(LoweringContext& ctx, const Op& op, const MoeMatmulOp& matmul) {
  const Value& y = ctx.graph_value(op.outputs[0]);
  LoweredLaunch launch = make_launch(moe_matmul_spec({.dtype = matmul.weight.dtype,
                                                      .n_rows = narrow(matmul.weight.n_rows),
                                                      .n_cols = narrow(matmul.weight.n_cols),
                                                      .expert_stride_rows = narrow(matmul.weight.expert_stride_rows),
                                                      .n_experts = narrow(matmul.weight.n_experts),
                                                      .n_used = narrow(y.shape[1]),
                                                      .n_tokens = ctx.n_rows(op.inputs[0]),
                                                      .is_x_per_slot = ctx.graph_value(op.inputs[0]).shape.size() == 3,
                                                      .has_bias = matmul.bias.has_value(),
                                                      .has_result_scale = matmul.result_scale.has_value()}),
                                     MoeMatmulArgs{},
                                     {{offsetof(MoeMatmulArgs, weight), ctx.weight(matmul.weight)},
                                      {offsetof(MoeMatmulArgs, x), ctx.value(op.inputs[0])},
                                      {offsetof(MoeMatmulArgs, ids), ctx.value(op.inputs[1])},
                                      {offsetof(MoeMatmulArgs, y), ctx.value(op.outputs[0])},
                                      {offsetof(MoeMatmulArgs, state), ctx.step_state()}});
  if (matmul.bias) launch.patches.push_back({offsetof(MoeMatmulArgs, bias), ctx.weight(*matmul.bias, WeightForm::kF32)});
  if (matmul.result_scale)
    launch.patches.push_back({offsetof(MoeMatmulArgs, result_scale), ctx.weight(*matmul.result_scale, WeightForm::kF32)});
  ctx.emit(std::move(launch));
}

void lower(LoweringContext& ctx, const Op& op, const MoeCombineOp&) {
  lower_moe_combine(ctx, op.inputs[0], op.inputs[1], kNoValue, op.outputs[0]);
}

void lower(LoweringContext& ctx, const Op& op, const SoftcapOp& softcap) {
  ctx.launch(softcap_spec({.n_per_token = ctx.row_elems(op.inputs[0]), .n_tokens = ctx.n_rows(op.inputs[0]), .cap = softcap.cap}),
             SoftcapArgs{},
             {{offsetof(SoftcapArgs, x), ctx.value(op.inputs[0])},
              {offsetof(SoftcapArgs, y), ctx.value(op.outputs[0])},
              {offsetof(SoftcapArgs, state), ctx.step_state()}});
}

void lower(LoweringContext& ctx, const Op& op, const SelectRowsOp&) {
  ctx.launch(select_rows_spec({.n_cols = ctx.row_elems(op.inputs[0]), .n_tokens = ctx.n_rows(op.inputs[0])}), SelectRowsArgs{},
             {{offsetof(SelectRowsArgs, x), ctx.value(op.inputs[0])},
              {offsetof(SelectRowsArgs, y), ctx.value(op.outputs[0])},
              {offsetof(SelectRowsArgs, state), ctx.step_state()}});
}

}  // namespace

CostPerKey attention_cost_per_key(const AttentionOp& attention, uint32_t n_tokens, KvType kv_type) {
  return {.bytes = 2.0 * attention.n_head_kv * kv_row_bytes(kv_type, attention.head_dim),   // K and V, shared by the step's tokens
          .flops = 4.0 * attention.n_head * attention.head_dim * n_tokens,
          .window_tokens = attention.window_tokens == 0 ? 0 : attention.window_tokens + n_tokens - 1};
}

void lower_rmsnorm(LoweringContext& ctx, const RmsNormOp& norm, ValueId x, ValueId residual, ValueId y) {
  const uint32_t dim = narrow(ctx.graph_value(x).shape.back());
  LoweredLaunch launch = make_launch(rmsnorm_spec({.dim = dim,
                                                   .rows_per_token = ctx.row_elems(x) / dim,
                                                   .n_tokens = ctx.n_rows(x),
                                                   .eps = norm.eps,
                                                   .has_residual = residual != kNoValue}),
                                     RmsNormArgs{},
                                     {{offsetof(RmsNormArgs, x), ctx.value(x)},
                                      {offsetof(RmsNormArgs, weight), ctx.weight(norm.weight, WeightForm::kF32)},
                                      {offsetof(RmsNormArgs, y), ctx.value(y)},
                                      {offsetof(RmsNormArgs, state), ctx.step_state()}});
  if (residual != kNoValue) launch.patches.push_back({offsetof(RmsNormArgs, residual), ctx.value(residual)});
  ctx.emit(std::move(launch));
}

void lower_matmul(LoweringContext& ctx, const MatmulOp& matmul, ValueId x, ValueId residual, ValueId y) {
  LoweredLaunch launch = make_launch(matmul_spec(matmul_params(matmul, ctx.n_rows(x), residual != kNoValue)), MatmulArgs{},
                                     {{offsetof(MatmulArgs, weight), ctx.weight(matmul.weight)},
                                      {offsetof(MatmulArgs, x), ctx.value(x)},
                                      {offsetof(MatmulArgs, y), ctx.value(y)},
                                      {offsetof(MatmulArgs, state), ctx.step_state()}});
  if (matmul.bias) launch.patches.push_back({offsetof(MatmulArgs, bias), ctx.weight(*matmul.bias, WeightForm::kF32)});
  if (matmul.result_scale)
    launch.patches.push_back({offsetof(MatmulArgs, result_scale), ctx.weight(*matmul.result_scale, WeightForm::kF32)});
  if (residual != kNoValue) launch.patches.push_back({offsetof(MatmulArgs, residual), ctx.value(residual)});
  ctx.emit(std::move(launch));
}

MatmulParams matmul_params(const MatmulOp& matmul, uint32_t n_tokens, bool has_residual) {
  return {.dtype = matmul.weight.dtype,
          .n_rows = narrow(matmul.weight.n_rows),
          .n_cols = narrow(matmul.weight.n_cols),
          .n_tokens = n_tokens,
          .has_bias = matmul.bias.has_value(),
          .has_result_scale = matmul.result_scale.has_value(),
          .has_residual = has_residual};
}

void lower_moe_combine(LoweringContext& ctx, ValueId x, ValueId weights, ValueId residual, ValueId y) {
  const Value& slots = ctx.graph_value(x);
  LoweredLaunch launch = make_launch(moe_combine_spec({.n_cols = narrow(slots.shape[2]),
                                                       .n_used = narrow(slots.shape[1]),
                                                       .n_tokens = ctx.n_rows(x),
                                                       .has_residual = residual != kNoValue}),
                                     MoeCombineArgs{},
                                     {{offsetof(MoeCombineArgs, x), ctx.value(x)},
                                      {offsetof(MoeCombineArgs, weights), ctx.value(weights)},
                                      {offsetof(MoeCombineArgs, y), ctx.value(y)},
                                      {offsetof(MoeCombineArgs, state), ctx.step_state()}});
  if (residual != kNoValue) launch.patches.push_back({offsetof(MoeCombineArgs, residual), ctx.value(residual)});
  ctx.emit(std::move(launch));
}

size_t lower_one_op(LoweringContext& ctx, size_t op_idx) {
  const Op& op = ctx.op(op_idx);
  std::visit([&](const auto& params) { lower(ctx, op, params); }, op.params);
  return 1;
}

}  // namespace sj
