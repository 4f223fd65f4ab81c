#include <cstddef>

#include <fmt/format.h>

#include "kernel_src/args/decode_glu.h"
#include "kernel_src/args/decode_moe_down.h"
#include "kernel_src/args/decode_router.h"
#include "runtime/fusion_decode.h"
#include "runtime/fusion_parts.h"

namespace sj {
namespace {

constexpr std::string_view kRule = "decode_moe";

std::optional<MoeHalf> refuse(LoweringContext& ctx, std::string_view reason) {
  ctx.refuse(kRule, reason);
  return std::nullopt;
}

}  // namespace

std::optional<MoeHalf> read_moe(LoweringContext& ctx, size_t i) {
  MoeHalf half;
  half.norm = ctx.find<RmsNormOp>(i);
  if (half.norm == nullptr || ctx.find<RouteOp>(i + 2) == nullptr) return std::nullopt;
  half.x = ctx.op(i).inputs[0];
  const ValueId h = ctx.op(i).outputs[0];
  Cursor at(ctx, i + 1);
  half.router = at.take<MatmulOp>(h);
  const ValueId logits = at.out();
  half.route = at.take<RouteOp>(logits);
  half.gate = at.take<MoeMatmulOp>(h);
  const ValueId gate_out = at.out();
  half.up = at.take<MoeMatmulOp>(h);
  const GluOp* glu = at.take<GluOp>(gate_out);
  half.down = at.take<MoeMatmulOp>(at.out());
  at.take<MoeCombineOp>(at.out());
  if (at.failed() || ctx.n_uses(h) != 3 || ctx.n_uses(logits) != 1) return std::nullopt;
  if (half.router->weight.dtype != DType::kF32 || half.router->bias || half.router->result_scale)
    return refuse(ctx, "the router is not a plain F32 matrix");
  for (const MoeMatmulOp* m : {half.gate, half.up, half.down})
    if (m->bias || m->result_scale || m->weight.row_begin != 0 || (m->weight.expert_stride_rows != 0 && m->weight.expert_stride_rows != m->weight.n_rows))
      return refuse(ctx, "experts with a bias, a result scale or fused gate and up");
  if (half.gate->weight.dtype != half.up->weight.dtype) return refuse(ctx, "gate and up differ in type");
  const std::optional<Tail> tail = read_tail(ctx, kRule, at.idx(), half.x, at.out());
  if (!tail) return std::nullopt;
  half.tail = *tail;
  half.n_ops = at.idx() + 1 - i;

  const uint32_t n_cols = narrow(half.gate->weight.n_cols), n_ff = narrow(half.gate->weight.n_rows), n_rows = narrow(half.down->weight.n_rows);
  std::optional<KernelSpec> glu_spec = try_spec(ctx, kRule, [&] {
    return decode_glu_spec({.dtype = half.gate->weight.dtype, .n_cols = n_cols, .n_ff = n_ff, .n_experts = half.route->n_experts,
                            .n_used = half.route->n_used, .is_gelu = glu->activation == Activation::kGeluTanh, .eps = half.norm->eps},
                           ctx.device(), ctx.tuning());
  });
  std::optional<KernelSpec> down_spec = try_spec(ctx, kRule, [&] {
    return decode_moe_down_spec({half.down->weight.dtype, n_rows, n_ff, half.route->n_experts, half.route->n_used, half.norm->eps},
                                ctx.device(), ctx.tuning());
  });
  if (!glu_spec || !down_spec) return std::nullopt;
  half.glu_spec = std::move(*glu_spec), half.down_spec = std::move(*down_spec);
  return half;
}

BufferRef new_scores(LoweringContext& ctx, const MoeHalf& moe) {
  return ctx.new_value(fmt::format("{}.scores", ctx.graph_value(moe.x).name), router_score_bytes(moe.route->n_experts), ValueForm::kScores);
}

std::string scores_form(const MoeHalf& moe) { return "scores:" + moe.router->weight.tensor; }

size_t fuse_decode_moe(LoweringContext& ctx, size_t i) {
  if (!wants_fused_decode(ctx)) return 0;
  std::optional<MoeHalf> half = read_moe(ctx, i);
  if (!half) return 0;
  const BufferRef* const added = ctx.find_form(half->x, scores_form(*half));   // by the stage that finished x
  std::optional<KernelSpec> router_spec;
  if (added == nullptr) {
    router_spec = try_spec(ctx, kRule, [&] { return decode_router_spec({narrow(half->gate->weight.n_cols), half->route->n_experts}, ctx.tuning()); });
    if (!router_spec) return 0;
  }

  const std::string layer = fmt::format("blk.{}", LoweringContext::layer_of(ctx.op(i)));
  const BufferRef normed = normed_input(ctx, half->x, *half->norm), scores = added != nullptr ? *added : new_scores(ctx, *half);
  const BufferRef hidden = ctx.new_value(layer + ".ffn_h", quant_vec_bytes(half->route->n_used * narrow(half->gate->weight.n_rows)), ValueForm::kQuantVec);
  if (router_spec)
    ctx.launch(std::move(*router_spec), DecodeRouterArgs{},
               {{offsetof(DecodeRouterArgs, weights), ctx.weight(half->router->weight)},
                {offsetof(DecodeRouterArgs, norm), ctx.weight(half->norm->weight, WeightForm::kF32)},
                {offsetof(DecodeRouterArgs, x), ctx.value(half->x)},
                {offsetof(DecodeRouterArgs, scores), scores}},
               layer + ".ffn_router");
  ctx.launch(std::move(half->glu_spec), DecodeGluArgs{},
             {{offsetof(DecodeGluArgs, gate), ctx.weight(half->gate->weight)},
              {offsetof(DecodeGluArgs, up), ctx.weight(half->up->weight)},
              {offsetof(DecodeGluArgs, x), normed},
              {offsetof(DecodeGluArgs, scores), scores},
              {offsetof(DecodeGluArgs, h), hidden}},
             layer + ".ffn_gate_up");
  const Finish to = finish_buffers(ctx, half->x, half->tail.y, *half->tail.next_norm);
  ctx.launch(std::move(half->down_spec), DecodeMoeDownArgs{},
             {{offsetof(DecodeMoeDownArgs, weights), ctx.weight(half->down->weight)},
              {offsetof(DecodeMoeDownArgs, scores), scores},
              {offsetof(DecodeMoeDownArgs, x), normed},
              {offsetof(DecodeMoeDownArgs, h), hidden},
              {offsetof(DecodeMoeDownArgs, residual), to.residual},
              {offsetof(DecodeMoeDownArgs, y), to.y},
              {offsetof(DecodeMoeDownArgs, next_norm), to.next_norm},
              {offsetof(DecodeMoeDownArgs, next), to.next}},
             layer + ".ffn_down");
  return half->n_ops;
}

}  // namespace sj
