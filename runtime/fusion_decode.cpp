#include "runtime/fusion_decode.h"

#include <cstddef>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "kernel_src/args/decode_attention.h"
#include "kernel_src/args/decode_gemv.h"
#include "kernel_src/args/decode_glu.h"
#include "kernel_src/args/decode_head.h"
#include "runtime/fusion_parts.h"
#include "runtime/kv_cache.h"

namespace sj {
namespace {

/// What the attention rule gathers.
struct AttentionHalf {
  ValueId x = kNoValue;
  const RmsNormOp *norm = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  const MatmulOp *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr;
  const RopeOp *rope_q = nullptr, *rope_k = nullptr;
  const AttentionOp* attention = nullptr;
  Tail tail;
  size_t n_ops = 0;
};

std::optional<AttentionHalf> read_attention(LoweringContext& ctx, size_t i) {
  constexpr std::string_view kRule = "decode_attention";
  AttentionHalf half;
  half.norm = ctx.find<RmsNormOp>(i);
  if (half.norm == nullptr || ctx.find<MatmulOp>(i + 1) == nullptr || ctx.find<MatmulOp>(i + 3) == nullptr) return std::nullopt;
  half.x = ctx.op(i).inputs[0];
  const ValueId h = ctx.op(i).outputs[0];
  Cursor at(ctx, i + 1);
  half.q = at.take<MatmulOp>(h);
  ValueId q = at.out();
  half.k = at.take<MatmulOp>(h);
  ValueId k = at.out();
  half.v = at.take<MatmulOp>(h);
  const ValueId v = at.out();
  if (at.failed()) return std::nullopt;
  half.q_norm = at.try_take<RmsNormOp>(q);
  if (half.q_norm != nullptr) q = at.out();
  half.k_norm = at.try_take<RmsNormOp>(k);
  if (half.k_norm != nullptr) k = at.out();
  half.rope_q = at.take<RopeOp>(q);
  q = at.out();
  half.rope_k = at.take<RopeOp>(k);
  k = at.out();
  const KvAppendOp* append = at.take<KvAppendOp>(k);
  if (at.failed() || at.last().inputs[1] != v) return std::nullopt;
  half.attention = at.take<AttentionOp>(q);
  const ValueId o = at.out();
  half.o = at.take<MatmulOp>(o);
  if (at.failed() || append->layer_idx != half.attention->layer_idx || ctx.n_uses(h) != 3) return std::nullopt;
  if ((half.q_norm == nullptr) != (half.k_norm == nullptr) || half.rope_q->rope.inv_freq != half.rope_k->rope.inv_freq ||
      half.rope_q->rope.pairing != half.rope_k->rope.pairing) {
    ctx.refuse(kRule, "q and k are not normed and rotated alike");
    return std::nullopt;
  }
  if (has_result_scale({half.q, half.k, half.v, half.o})) {
    ctx.refuse(kRule, "a result scale");
    return std::nullopt;
  }
  const bool has_bias = half.q->bias.has_value();
  if (has_bias != half.k->bias.has_value() || has_bias != half.v->bias.has_value()) {
    ctx.refuse(kRule, "only some of q, k, v have a bias");
    return std::nullopt;
  }
  const std::optional<Tail> tail = read_tail(ctx, kRule, at.idx(), half.x, at.out());
  if (!tail) return std::nullopt;
  half.tail = *tail;
  half.n_ops = at.idx() + 1 - i;
  return half;
}

DecodeMatrix matrix_of(const MatmulOp& matmul) { return {matmul.weight.dtype, narrow(matmul.weight.n_rows)}; }

DecodeAttentionParams attention_params(LoweringContext& ctx, const AttentionHalf& half) {
  const AttentionOp& a = *half.attention;
  const RopeDesc& rope = half.rope_q->rope;
  return {.n_head = a.n_head, .n_head_kv = a.n_head_kv, .head_dim = a.head_dim, .n_rot = rope.n_rot,
          .is_interleaved = rope.pairing == RopePairing::kInterleaved, .has_qk_norm = half.q_norm != nullptr,
          .eps = half.q_norm != nullptr ? half.q_norm->eps : 0.0f, .scale = a.scale, .magnitude = rope.magnitude,
          .window_tokens = a.window_tokens, .kv_type = ctx.kv_type(), .max_tokens = ctx.attend_tokens()};
}

void emit_qkv(LoweringContext& ctx, const AttentionHalf& half, KernelSpec spec, const BufferRef& x, const BufferRef& qkv,
              const std::optional<BufferRef>& scores) {
  LoweredLaunch launch = make_launch(std::move(spec), DecodeGemvArgs{},
                                     {{offsetof(DecodeGemvArgs, x), x}, {offsetof(DecodeGemvArgs, y), qkv}});
  const MatmulOp* const matmuls[] = {half.q, half.k, half.v};
  for (size_t m = 0; m < 3; ++m) {
    launch.patches.push_back({offsetof(DecodeGemvArgs, weights) + m * sizeof(void*), ctx.weight(matmuls[m]->weight)});
    if (matmuls[m]->bias)
      launch.patches.push_back({offsetof(DecodeGemvArgs, bias) + m * sizeof(void*), ctx.weight(*matmuls[m]->bias, WeightForm::kF32)});
  }
  if (scores) launch.patches.push_back({offsetof(DecodeGemvArgs, scores), *scores});
  launch.label = fmt::format("blk.{}.qkv", half.attention->layer_idx);
  ctx.emit(std::move(launch));
}

void emit_attention(LoweringContext& ctx, const AttentionHalf& half, KernelSpec spec, const BufferRef& qkv, const BufferRef& out) {
  const uint32_t layer = half.attention->layer_idx;
  const BufferRef partial = ctx.new_value(fmt::format("blk.{}.attention.partial", layer), decode_attention_partial_bytes(spec));
  // Every launch leaves the counters at zero, so all layers share them.
  const BufferRef counters = ctx.state("decode_attention.counters", decode_attention_counter_bytes(spec));
  LoweredLaunch launch = make_launch(std::move(spec), DecodeAttentionArgs{.n_table_pages = n_kv_pages(ctx.max_ctx_tokens())},
                                     {{offsetof(DecodeAttentionArgs, qkv), qkv},
                                      {offsetof(DecodeAttentionArgs, turns), ctx.rope_table(half.rope_q->rope)},
                                      {offsetof(DecodeAttentionArgs, k_pages), ctx.k_pages(layer)},
                                      {offsetof(DecodeAttentionArgs, v_pages), ctx.v_pages(layer)},
                                      {offsetof(DecodeAttentionArgs, page_table), ctx.page_table()},
                                      {offsetof(DecodeAttentionArgs, state), ctx.step_state()},
                                      {offsetof(DecodeAttentionArgs, partial), partial},
                                      {offsetof(DecodeAttentionArgs, n_arrived), counters},
                                      {offsetof(DecodeAttentionArgs, out), out}});
  if (half.q_norm != nullptr) {
    launch.patches.push_back({offsetof(DecodeAttentionArgs, q_norm), ctx.weight(half.q_norm->weight, WeightForm::kF32)});
    launch.patches.push_back({offsetof(DecodeAttentionArgs, k_norm), ctx.weight(half.k_norm->weight, WeightForm::kF32)});
  }
  launch.per_key = attention_cost_per_key(*half.attention, 1, ctx.kv_type());
  launch.label = fmt::format("blk.{}.attention", layer);
  ctx.emit(std::move(launch));
}

}  // namespace

size_t fuse_decode_attention(LoweringContext& ctx, size_t i) {
  constexpr std::string_view kRule = "decode_attention";
  if (!wants_fused_decode(ctx)) return 0;
  const std::optional<AttentionHalf> half = read_attention(ctx, i);
  if (!half) return 0;
  const AttentionOp& a = *half->attention;
  const uint32_t out_dim = a.n_head * a.head_dim;
  // Experts behind it: the last stage adds up the router's scores as well, the first clears them.
  const std::optional<MoeHalf> moe = read_moe(ctx, i + half->n_ops);
  const uint32_t n_experts = moe ? moe->route->n_experts : 0;
  std::optional<KernelSpec> qkv_spec = try_spec(ctx, kRule, [&] {
    return decode_gemv_spec({.matrices = {matrix_of(*half->q), matrix_of(*half->k), matrix_of(*half->v)},
                             .n_cols = narrow(half->q->weight.n_cols), .is_normed = true, .has_bias = half->q->bias.has_value(),
                             .eps = half->norm->eps, .n_experts = n_experts}, ctx.device(), ctx.tuning());
  });
  std::optional<KernelSpec> attention_spec = try_spec(ctx, kRule, [&] { return decode_attention_spec(attention_params(ctx, *half), ctx.device(), ctx.tuning()); });
  std::optional<KernelSpec> o_spec = try_spec(ctx, kRule, [&] {
    return decode_gemv_spec({.matrices = {matrix_of(*half->o)}, .n_cols = out_dim, .finishes_rows = true,
                             .has_bias = half->o->bias.has_value(), .n_experts = n_experts}, ctx.device(), ctx.tuning());
  });
  if (!qkv_spec || !attention_spec || !o_spec) return 0;
  const std::string layer = fmt::format("blk.{}", a.layer_idx);
  const BufferRef x = normed_input(ctx, half->x, *half->norm);
  const BufferRef qkv = ctx.new_value(layer + ".qkv", uint64_t{4} * (a.n_head + 2 * a.n_head_kv) * a.head_dim, ValueForm::kF32);
  const BufferRef out = ctx.new_value(layer + ".attention", quant_vec_bytes(out_dim), ValueForm::kQuantVec);
  std::optional<BufferRef> scores;
  if (moe) scores = new_scores(ctx, *moe);
  emit_qkv(ctx, *half, std::move(*qkv_spec), x, qkv, scores);
  emit_attention(ctx, *half, std::move(*attention_spec), qkv, out);
  const Finish to = finish_buffers(ctx, half->x, half->tail.y, *half->tail.next_norm);
  LoweredLaunch launch = finishing_gemv(ctx, std::move(*o_spec), *half->o, out, to);
  if (moe) {
    launch.patches.push_back({offsetof(DecodeGemvArgs, router), ctx.weight(moe->router->weight)});
    launch.patches.push_back({offsetof(DecodeGemvArgs, scores), *scores});
    ctx.set_form(half->tail.y, scores_form(*moe), *scores);
  }
  launch.label = layer + ".attn_output";
  ctx.emit(std::move(launch));
  return half->n_ops;
}

size_t fuse_decode_ffn(LoweringContext& ctx, size_t i) {
  constexpr std::string_view kRule = "decode_ffn";
  if (!wants_fused_decode(ctx)) return 0;
  const RmsNormOp* norm = ctx.find<RmsNormOp>(i);
  if (norm == nullptr || ctx.find<MatmulOp>(i + 2) == nullptr || ctx.find<GluOp>(i + 3) == nullptr) return 0;
  const ValueId x = ctx.op(i).inputs[0], h = ctx.op(i).outputs[0];
  Cursor at(ctx, i + 1);
  const MatmulOp* gate = at.take<MatmulOp>(h);
  const ValueId gate_out = at.out();
  const MatmulOp* up = at.take<MatmulOp>(h);
  const GluOp* glu = at.take<GluOp>(gate_out);
  const MatmulOp* down = at.take<MatmulOp>(at.out());
  if (at.failed() || ctx.n_uses(h) != 2) return 0;
  if (gate->bias || up->bias || has_result_scale({gate, up, down})) return ctx.refuse(kRule, "a bias or a result scale");
  if (gate->weight.dtype != up->weight.dtype) return ctx.refuse(kRule, "gate and up differ in type");
  const std::optional<Tail> tail = read_tail(ctx, kRule, at.idx(), x, at.out());
  if (!tail) return 0;
  const uint32_t n_ff = narrow(gate->weight.n_rows);
  std::optional<KernelSpec> glu_spec = try_spec(ctx, kRule, [&] {
    return decode_glu_spec({.dtype = gate->weight.dtype, .n_cols = narrow(gate->weight.n_cols), .n_ff = n_ff,
                            .is_gelu = glu->activation == Activation::kGeluTanh, .eps = norm->eps}, ctx.device(), ctx.tuning());
  });
  std::optional<KernelSpec> down_spec = try_spec(ctx, kRule, [&] {
    return decode_gemv_spec({.matrices = {matrix_of(*down)}, .n_cols = n_ff, .finishes_rows = true, .has_bias = down->bias.has_value()},
                            ctx.device(), ctx.tuning());
  });
  if (!glu_spec || !down_spec) return 0;

  const int layer = LoweringContext::layer_of(ctx.op(i));
  const BufferRef normed = normed_input(ctx, x, *norm);
  const BufferRef hidden = ctx.new_value(fmt::format("blk.{}.ffn_h", layer), quant_vec_bytes(n_ff), ValueForm::kQuantVec);
  ctx.launch(std::move(*glu_spec), DecodeGluArgs{},
             {{offsetof(DecodeGluArgs, gate), ctx.weight(gate->weight)},
              {offsetof(DecodeGluArgs, up), ctx.weight(up->weight)},
              {offsetof(DecodeGluArgs, x), normed},
              {offsetof(DecodeGluArgs, h), hidden}},
             fmt::format("blk.{}.ffn_gate_up", layer));
  const Finish to = finish_buffers(ctx, x, tail->y, *tail->next_norm);
  LoweredLaunch launch = finishing_gemv(ctx, std::move(*down_spec), *down, hidden, to);
  launch.label = fmt::format("blk.{}.ffn_down", layer);
  ctx.emit(std::move(launch));
  return at.idx() + 1 - i;
}

size_t fuse_decode_head(LoweringContext& ctx, size_t i) {
  constexpr std::string_view kRule = "decode_head";
  if (!wants_fused_decode(ctx)) return 0;
  const RmsNormOp* norm = ctx.find<RmsNormOp>(i);
  const MatmulOp* head = ctx.find<MatmulOp>(i + 1);
  if (norm == nullptr || head == nullptr || ctx.op(i + 1).outputs[0] == kNoValue || ctx.n_uses(ctx.op(i).outputs[0]) != 1) return 0;
  if (head->weight.n_rows != ctx.model().n_vocab || ctx.op(i + 1).inputs[0] != ctx.op(i).outputs[0]) return 0;
  if (head->result_scale) return ctx.refuse(kRule, "a result scale");
  // Where nothing follows it, the head samples: one launch less at the end of the chain.
  const bool samples = ctx.op(i + 1).outputs[0] == ctx.graph().logits;
  std::optional<KernelSpec> spec = try_spec(ctx, kRule, [&] {
    return decode_head_spec({.dtype = head->weight.dtype, .n_rows = narrow(head->weight.n_rows), .n_cols = narrow(head->weight.n_cols),
                             .has_bias = head->bias.has_value(), .eps = norm->eps, .n_ring_slots = samples ? kTokenRingSlots : 0},
                            ctx.device(), ctx.tuning());
  });
  if (!spec) return 0;
  // Behind layers in float32 the head would be the only source of int8 noise.
  if (ctx.find_form(ctx.op(i).inputs[0], normed_form(norm->weight)) == nullptr)
    return ctx.refuse(kRule, "the layer before it is not fused");
  const BufferRef x = normed_input(ctx, ctx.op(i).inputs[0], *norm);
  LoweredLaunch launch = make_launch(std::move(*spec), DecodeHeadArgs{},
                                     {{offsetof(DecodeHeadArgs, weights), ctx.weight(head->weight)},
                                      {offsetof(DecodeHeadArgs, x), x},
                                      {offsetof(DecodeHeadArgs, y), ctx.value(ctx.op(i + 1).outputs[0])}});
  if (head->bias) launch.patches.push_back({offsetof(DecodeHeadArgs, bias), ctx.weight(*head->bias, WeightForm::kF32)});
  if (samples) add_sampling(ctx, launch, offsetof(DecodeHeadArgs, sample));
  launch.label = "output";
  ctx.emit(std::move(launch));
  return 2;
}

}  // namespace sj
