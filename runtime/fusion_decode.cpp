#include "runtime/kv_cache.h"
#include "runtime/fusion_decode.h"

#include <cstddef>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "kernel_src/args/decode_attention.h"
#include "kernel_src/args/decode_gemv.h"
#include "kernel_src/args/decode_glu.h"
#include "kernel_src/args/decode_head.h"
#include "kernel_src/args/decode_input.h"
#include "kernel_src/args/decode_moe_down.h"
#include "kernel_src/args/decode_router.h"
#include "kernel_src/decode_stages_spec.h"
#include "runtime/generic_ops.h"

namespace sj {
namespace {

/// Fused steps are for one token and int8 activations.
bool is_wanted(const LoweringContext& ctx) { return ctx.n_tokens() == 1 && ctx.activations() == ActivationMode::kAuto; }

std::string normed_form(const WeightRef& norm) { return "normed:" + norm.tensor; }

/// The norm that reads `x` next, when the op right behind `idx` is one of x: the stage that finishes x prepares its input.
const RmsNormOp* find_next_norm(const LoweringContext& ctx, size_t idx, ValueId x) {
  const RmsNormOp* norm = ctx.find<RmsNormOp>(idx);
  return norm != nullptr && ctx.op(idx).inputs[0] == x ? norm : nullptr;
}

/// x as the NormedVec of `norm`: what a stage left, or made of x by a launch of its own.
BufferRef normed_input(LoweringContext& ctx, ValueId x, const RmsNormOp& norm) {
  const std::string form = normed_form(norm.weight);
  if (const BufferRef* found = ctx.find_form(x, form)) return *found;
  const uint32_t n_rows = ctx.row_elems(x);
  const BufferRef normed = ctx.new_value(fmt::format("{}.normed", ctx.graph_value(x).name), normed_vec_bytes(n_rows), ValueForm::kNormedVec);
  ctx.launch(decode_input_spec({.n_rows = n_rows}), DecodeInputArgs{},
             {{offsetof(DecodeInputArgs, x), ctx.value(x)},
              {offsetof(DecodeInputArgs, next_norm), ctx.weight(norm.weight, WeightForm::kF32)},
              {offsetof(DecodeInputArgs, y), ctx.value(x)},
              {offsetof(DecodeInputArgs, next), normed}},
             fmt::format("{}.quantise", ctx.graph_value(x).name));
  ctx.set_form(x, form, normed);
  return normed;
}

/// Where a finishing stage writes y and the input of the norm behind it.
struct Finish {
  BufferRef residual, y, next_norm, next;
};
Finish finish_buffers(LoweringContext& ctx, ValueId residual, ValueId y, const RmsNormOp& next_norm) {
  const BufferRef next = ctx.new_value(fmt::format("{}.normed", ctx.graph_value(y).name), normed_vec_bytes(ctx.row_elems(y)),
                                       ValueForm::kNormedVec);
  ctx.set_form(y, normed_form(next_norm.weight), next);
  return {ctx.value(residual), ctx.value(y), ctx.weight(next_norm.weight, WeightForm::kF32), next};
}

/// y = residual + W x, finished for the next norm.
LoweredLaunch finishing_gemv(LoweringContext& ctx, KernelSpec spec, const MatmulOp& matmul, const BufferRef& x, const Finish& to) {
  LoweredLaunch launch = make_launch(std::move(spec), DecodeGemvArgs{},
                                     {{offsetof(DecodeGemvArgs, weights), ctx.weight(matmul.weight)},
                                      {offsetof(DecodeGemvArgs, x), x},
                                      {offsetof(DecodeGemvArgs, residual), to.residual},
                                      {offsetof(DecodeGemvArgs, y), to.y},
                                      {offsetof(DecodeGemvArgs, next_norm), to.next_norm},
                                      {offsetof(DecodeGemvArgs, next), to.next}});
  if (matmul.bias) launch.patches.push_back({offsetof(DecodeGemvArgs, bias), ctx.weight(*matmul.bias, WeightForm::kF32)});
  return launch;
}

/// The other operand of AddOp `idx` when one is `x`; else kNoValue.
ValueId residual_of(const LoweringContext& ctx, size_t idx, ValueId x) {
  if (ctx.find<AddOp>(idx) == nullptr || ctx.n_uses(x) != 1) return kNoValue;
  const std::vector<ValueId>& inputs = ctx.op(idx).inputs;
  return inputs[0] == x ? inputs[1] : inputs[1] == x ? inputs[0] : kNoValue;
}

/// Reads ops one after the other; `failed` once one is not what was expected.
class Cursor {
 public:
  Cursor(const LoweringContext& ctx, size_t idx) : ctx_(ctx), idx_(idx) {}
  /// The op's parameters when it is of that kind and its first input is `x`.
  template <class Params>
  const Params* take(ValueId x) {
    const Params* params = failed_ ? nullptr : ctx_.find<Params>(idx_);
    if (params == nullptr || ctx_.op(idx_).inputs.empty() || ctx_.op(idx_).inputs[0] != x) {
      failed_ = true;
      return nullptr;
    }
    ++idx_;
    return params;
  }
  /// The same, but the cursor stays and does not fail when the op is another one.
  template <class Params>
  const Params* try_take(ValueId x) {
    const Params* params = failed_ ? nullptr : ctx_.find<Params>(idx_);
    if (params == nullptr || ctx_.op(idx_).inputs[0] != x) return nullptr;
    ++idx_;
    return params;
  }
  ValueId out() const { return failed_ ? kNoValue : ctx_.op(idx_ - 1).outputs.at(0); }
  const Op& last() const { return ctx_.op(idx_ - 1); }
  bool failed() const { return failed_; }
  size_t idx() const { return idx_; }

 private:
  const LoweringContext& ctx_;
  size_t idx_;
  bool failed_ = false;
};

/// Makes a spec; a shape that its family refuses becomes the reason why the rule does not apply.
template <class Make>
std::optional<KernelSpec> try_spec(LoweringContext& ctx, std::string_view rule, Make&& make) {
  try {
    return make();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    ctx.refuse(rule, error.message());
    return std::nullopt;
  }
}

/// Half a layer that ends in x + f(norm(x)): the ops of f are read, the residual and the next norm are still to come.
struct Tail {
  ValueId y = kNoValue;
  const RmsNormOp* next_norm = nullptr;
};
/// Reads "x + f" and the norm behind it; nullopt, with the reason noted, when the half layer ends otherwise.
std::optional<Tail> read_tail(LoweringContext& ctx, std::string_view rule, size_t idx, ValueId x, ValueId f) {
  if (residual_of(ctx, idx, f) != x) {
    ctx.refuse(rule, "the half layer does not end in the residual sum (a norm behind the block?)");
    return std::nullopt;
  }
  const ValueId y = ctx.op(idx).outputs[0];
  const RmsNormOp* next_norm = find_next_norm(ctx, idx + 1, y);
  if (next_norm == nullptr) {
    ctx.refuse(rule, "no norm follows the residual sum");
    return std::nullopt;
  }
  return Tail{y, next_norm};
}

bool has_result_scale(std::initializer_list<const MatmulOp*> matmuls) {
  for (const MatmulOp* m : matmuls)
    if (m->result_scale) return true;
  return false;
}

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

void emit_qkv(LoweringContext& ctx, const AttentionHalf& half, KernelSpec spec, const BufferRef& x, const BufferRef& qkv) {
  LoweredLaunch launch = make_launch(std::move(spec), DecodeGemvArgs{},
                                     {{offsetof(DecodeGemvArgs, x), x}, {offsetof(DecodeGemvArgs, y), qkv}});
  const MatmulOp* const matmuls[] = {half.q, half.k, half.v};
  for (size_t m = 0; m < 3; ++m) {
    launch.patches.push_back({offsetof(DecodeGemvArgs, weights) + m * sizeof(void*), ctx.weight(matmuls[m]->weight)});
    if (matmuls[m]->bias)
      launch.patches.push_back({offsetof(DecodeGemvArgs, bias) + m * sizeof(void*), ctx.weight(*matmuls[m]->bias, WeightForm::kF32)});
  }
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
  if (!is_wanted(ctx)) return 0;
  const std::optional<AttentionHalf> half = read_attention(ctx, i);
  if (!half) return 0;
  const AttentionOp& a = *half->attention;
  const uint32_t out_dim = a.n_head * a.head_dim;
  std::optional<KernelSpec> qkv_spec = try_spec(ctx, kRule, [&] {
    return decode_gemv_spec({.matrices = {matrix_of(*half->q), matrix_of(*half->k), matrix_of(*half->v)},
                             .n_cols = narrow(half->q->weight.n_cols), .is_normed = true, .has_bias = half->q->bias.has_value(),
                             .eps = half->norm->eps}, ctx.device(), ctx.tuning());
  });
  std::optional<KernelSpec> attention_spec = try_spec(ctx, kRule, [&] { return decode_attention_spec(attention_params(ctx, *half), ctx.device(), ctx.tuning()); });
  std::optional<KernelSpec> o_spec = try_spec(ctx, kRule, [&] {
    return decode_gemv_spec({.matrices = {matrix_of(*half->o)}, .n_cols = out_dim, .finishes_rows = true,
                             .has_bias = half->o->bias.has_value()}, ctx.device(), ctx.tuning());
  });
  if (!qkv_spec || !attention_spec || !o_spec) return 0;
  const std::string layer = fmt::format("blk.{}", a.layer_idx);
  const BufferRef x = normed_input(ctx, half->x, *half->norm);
  const BufferRef qkv = ctx.new_value(layer + ".qkv", uint64_t{4} * (a.n_head + 2 * a.n_head_kv) * a.head_dim, ValueForm::kF32);
  const BufferRef out = ctx.new_value(layer + ".attention", quant_vec_bytes(out_dim), ValueForm::kQuantVec);
  emit_qkv(ctx, *half, std::move(*qkv_spec), x, qkv);
  emit_attention(ctx, *half, std::move(*attention_spec), qkv, out);
  const Finish to = finish_buffers(ctx, half->x, half->tail.y, *half->tail.next_norm);
  LoweredLaunch launch = finishing_gemv(ctx, std::move(*o_spec), *half->o, out, to);
  launch.label = layer + ".attn_output";
  ctx.emit(std::move(launch));
  return half->n_ops;
}

size_t fuse_decode_moe(LoweringContext& ctx, size_t i) {
  constexpr std::string_view kRule = "decode_moe";
  if (!is_wanted(ctx)) return 0;
  const RmsNormOp* norm = ctx.find<RmsNormOp>(i);
  if (norm == nullptr || ctx.find<RouteOp>(i + 2) == nullptr) return 0;
  const ValueId x = ctx.op(i).inputs[0], h = ctx.op(i).outputs[0];
  Cursor at(ctx, i + 1);
  const MatmulOp* router = at.take<MatmulOp>(h);
  const ValueId logits = at.out();
  const RouteOp* route = at.take<RouteOp>(logits);
  const MoeMatmulOp* gate = at.take<MoeMatmulOp>(h);
  const ValueId gate_out = at.out();
  const MoeMatmulOp* up = at.take<MoeMatmulOp>(h);
  const GluOp* glu = at.take<GluOp>(gate_out);
  const MoeMatmulOp* down = at.take<MoeMatmulOp>(at.out());
  at.take<MoeCombineOp>(at.out());
  if (at.failed() || ctx.n_uses(h) != 3 || ctx.n_uses(logits) != 1) return 0;
  if (router->weight.dtype != DType::kF32 || router->bias || router->result_scale)
    return ctx.refuse(kRule, "the router is not a plain F32 matrix");
  for (const MoeMatmulOp* m : {gate, up, down})
    if (m->bias || m->result_scale || m->weight.row_begin != 0 || (m->weight.expert_stride_rows != 0 && m->weight.expert_stride_rows != m->weight.n_rows))
      return ctx.refuse(kRule, "experts with a bias, a result scale or fused gate and up");
  if (gate->weight.dtype != up->weight.dtype) return ctx.refuse(kRule, "gate and up differ in type");
  const std::optional<Tail> tail = read_tail(ctx, kRule, at.idx(), x, at.out());
  if (!tail) return 0;
  const uint32_t n_cols = narrow(gate->weight.n_cols), n_ff = narrow(gate->weight.n_rows), n_rows = narrow(down->weight.n_rows);
  std::optional<KernelSpec> router_spec = try_spec(ctx, kRule, [&] { return decode_router_spec({n_cols, route->n_experts, norm->eps}, ctx.tuning()); });
  std::optional<KernelSpec> glu_spec = try_spec(ctx, kRule, [&] {
    return decode_glu_spec({.dtype = gate->weight.dtype, .n_cols = n_cols, .n_ff = n_ff, .n_experts = route->n_experts,
                            .n_used = route->n_used, .is_gelu = glu->activation == Activation::kGeluTanh, .eps = norm->eps}, ctx.device(), ctx.tuning());
  });
  std::optional<KernelSpec> down_spec = try_spec(ctx, kRule, [&] {
    return decode_moe_down_spec({down->weight.dtype, n_rows, n_ff, route->n_experts, route->n_used}, ctx.device(), ctx.tuning());
  });
  if (!router_spec || !glu_spec || !down_spec) return 0;

  const int layer = LoweringContext::layer_of(ctx.op(i));
  const BufferRef normed = normed_input(ctx, x, *norm);
  const BufferRef scores = ctx.new_value(fmt::format("blk.{}.router", layer), uint64_t{4} * route->n_experts, ValueForm::kF32);
  const BufferRef hidden = ctx.new_value(fmt::format("blk.{}.ffn_h", layer), quant_vec_bytes(route->n_used * n_ff), ValueForm::kQuantVec);
  ctx.launch(std::move(*router_spec), DecodeRouterArgs{},
             {{offsetof(DecodeRouterArgs, weights), ctx.weight(router->weight)},
              {offsetof(DecodeRouterArgs, norm), ctx.weight(norm->weight, WeightForm::kF32)},
              {offsetof(DecodeRouterArgs, x), ctx.value(x)},
              {offsetof(DecodeRouterArgs, logits), scores}},
             fmt::format("blk.{}.ffn_router", layer));
  ctx.launch(std::move(*glu_spec), DecodeGluArgs{},
             {{offsetof(DecodeGluArgs, gate), ctx.weight(gate->weight)},
              {offsetof(DecodeGluArgs, up), ctx.weight(up->weight)},
              {offsetof(DecodeGluArgs, x), normed},
              {offsetof(DecodeGluArgs, logits), scores},
              {offsetof(DecodeGluArgs, h), hidden}},
             fmt::format("blk.{}.ffn_gate_up", layer));
  const Finish to = finish_buffers(ctx, x, tail->y, *tail->next_norm);
  ctx.launch(std::move(*down_spec), DecodeMoeDownArgs{},
             {{offsetof(DecodeMoeDownArgs, weights), ctx.weight(down->weight)},
              {offsetof(DecodeMoeDownArgs, logits), scores},
              {offsetof(DecodeMoeDownArgs, h), hidden},
              {offsetof(DecodeMoeDownArgs, residual), to.residual},
              {offsetof(DecodeMoeDownArgs, y), to.y},
              {offsetof(DecodeMoeDownArgs, next_norm), to.next_norm},
              {offsetof(DecodeMoeDownArgs, next), to.next}},
             fmt::format("blk.{}.ffn_down", layer));
  return at.idx() + 1 - i;
}

size_t fuse_decode_ffn(LoweringContext& ctx, size_t i) {
  constexpr std::string_view kRule = "decode_ffn";
  if (!is_wanted(ctx)) return 0;
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
  if (!is_wanted(ctx)) return 0;
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
