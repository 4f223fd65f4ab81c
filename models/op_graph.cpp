#include "models/op_graph.h"

#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/error.h"

namespace sj {
namespace {

using Shape = std::vector<uint64_t>;

class GraphBuilder {
 public:
  GraphBuilder(const ModelDesc& model, const GraphOptions& options) : model_(model), n_(options.n_tokens) {
    graph_.options = options;
  }

  OpGraph build() {
    ValueId x = emit("embed", EmbedOp{model_.embedding, model_.embedding_scale}, {}, {n_, model_.d_model});
    for (const LayerDesc& layer : model_.layers) {
      x = attention_block(layer, x);
      x = ffn_block(layer, x);
    }
    uint64_t n_rows = n_;
    if (n_ > 1 && !graph_.options.all_logits) {
      n_rows = 1;
      x = emit("select_rows", SelectRowsOp{.last_only = true}, {x}, {n_rows, model_.d_model});
    }
    x = norm("output_norm", model_.output_norm, x);
    x = matmul("output", model_.head, model_.head_bias, x, {n_rows, model_.n_vocab});
    if (model_.logit_softcap != 0) x = emit("softcap", SoftcapOp{model_.logit_softcap}, {x}, {n_rows, model_.n_vocab});
    graph_.logits = x;
    return std::move(graph_);
  }

 private:
  ValueId add_value(std::string name, ValueType type, Shape shape) {
    graph_.values.push_back({.name = std::move(name), .type = type, .shape = std::move(shape)});
    return static_cast<ValueId>(graph_.values.size() - 1);
  }

  ValueId emit(std::string name, OpParams params, std::vector<ValueId> inputs, Shape shape) {
    const ValueId out = add_value(name, ValueType::kF32, std::move(shape));
    graph_.ops.push_back({std::move(name), std::move(params), std::move(inputs), {out}});
    return out;
  }

  ValueId norm(std::string name, const WeightRef& weight, ValueId x) {
    return emit(std::move(name), RmsNormOp{weight, model_.rms_eps}, {x}, graph_.values[x].shape);
  }

  ValueId matmul(std::string name, const WeightRef& weight, const std::optional<WeightRef>& bias, ValueId x, Shape shape) {
    return emit(std::move(name), MatmulOp{weight, bias, find_result_scale(model_, weight)}, {x}, std::move(shape));
  }

  ValueId moe_matmul(std::string name, const WeightRef& weight, ValueId x, ValueId ids) {
    return emit(std::move(name), MoeMatmulOp{weight, std::nullopt, find_result_scale(model_, weight)}, {x, ids},
                {n_, model_.n_experts_used, weight.n_rows});
  }

  ValueId attention_block(const LayerDesc& layer, ValueId x) {
    const AttentionDesc& a = layer.attention;
    const auto name = [&](std::string_view role) { return fmt::format("blk.{}.{}", layer.idx, role); };
    const Shape q_shape = {n_, a.n_head, a.head_dim}, kv_shape = {n_, a.n_head_kv, a.head_dim};
    const ValueId h = norm(name("attn_norm"), layer.attn_norm, x);
    ValueId q = matmul(name("attn_q"), layer.wq, layer.bq, h, q_shape);
    ValueId k = matmul(name("attn_k"), layer.wk, layer.bk, h, kv_shape);
    const ValueId v = matmul(name("attn_v"), layer.wv, layer.bv, h, kv_shape);
    if (layer.q_norm) q = norm(name("attn_q_norm"), *layer.q_norm, q);
    if (layer.k_norm) k = norm(name("attn_k_norm"), *layer.k_norm, k);
    q = emit(name("rope_q"), RopeOp{a.rope}, {q}, q_shape);
    k = emit(name("rope_k"), RopeOp{a.rope}, {k}, kv_shape);
    graph_.ops.push_back({name("kv_append"), KvAppendOp{layer.idx}, {k, v}, {}});
    const AttentionOp attend{layer.idx, a.n_head, a.n_head_kv, a.head_dim, a.scale, a.window_tokens};
    const ValueId o = emit(name("attention"), attend, {q}, {n_, uint64_t{a.n_head} * a.head_dim});
    ValueId y = matmul(name("attn_output"), layer.wo, layer.bo, o, {n_, model_.d_model});
    if (layer.attn_post_norm) y = norm(name("attn_post_norm"), *layer.attn_post_norm, y);
    return emit(name("attn_residual"), AddOp{}, {x, y}, {n_, model_.d_model});
  }

  ValueId ffn_block(const LayerDesc& layer, ValueId x) {
    const auto name = [&](std::string_view role) { return fmt::format("blk.{}.{}", layer.idx, role); };
    const ValueId h = norm(name("ffn_norm"), layer.ffn_norm, x);
    ValueId y = layer.is_moe ? moe_ffn(layer, h) : dense_ffn(layer, h);
    if (layer.ffn_post_norm) y = norm(name("ffn_post_norm"), *layer.ffn_post_norm, y);
    return emit(name("ffn_residual"), AddOp{}, {x, y}, {n_, model_.d_model});
  }

  ValueId dense_ffn(const LayerDesc& layer, ValueId h) {
    const auto name = [&](std::string_view role) { return fmt::format("blk.{}.{}", layer.idx, role); };
    const Shape wide = {n_, layer.w_gate.n_rows};
    const ValueId gate = matmul(name("ffn_gate"), layer.w_gate, layer.b_gate, h, wide);
    const ValueId up = matmul(name("ffn_up"), layer.w_up, layer.b_up, h, wide);
    const ValueId act = emit(name("ffn_act"), GluOp{layer.activation}, {gate, up}, wide);
    return matmul(name("ffn_down"), layer.w_down, layer.b_down, act, {n_, model_.d_model});
  }

  ValueId moe_ffn(const LayerDesc& layer, ValueId h) {
    const auto name = [&](std::string_view role) { return fmt::format("blk.{}.{}", layer.idx, role); };
    const Shape slots = {n_, model_.n_experts_used};
    const ValueId logits = matmul(name("ffn_router"), *layer.router, std::nullopt, h, {n_, model_.n_experts});
    const ValueId ids = add_value(name("ffn_route.ids"), ValueType::kI32, slots);
    const ValueId weights = add_value(name("ffn_route.weights"), ValueType::kF32, slots);
    graph_.ops.push_back({name("ffn_route"), RouteOp{model_.n_experts, model_.n_experts_used}, {logits}, {ids, weights}});
    const ValueId gate = moe_matmul(name("ffn_gate_exps"), layer.w_gate, h, ids);
    const ValueId up = moe_matmul(name("ffn_up_exps"), layer.w_up, h, ids);
    const ValueId act = emit(name("ffn_act"), GluOp{layer.activation}, {gate, up}, graph_.values[gate].shape);
    const ValueId down = moe_matmul(name("ffn_down_exps"), layer.w_down, act, ids);
    return emit(name("ffn_combine"), MoeCombineOp{}, {down, weights}, {n_, model_.d_model});
  }

  const ModelDesc& model_;
  const uint64_t n_;
  OpGraph graph_;
};

template <class... F>
struct Overloaded : F... { using F::operator()...; };
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

std::string rows_text(const WeightRef& w) {
  const std::string rows = w.row_begin == 0 ? "" : fmt::format(" rows {}..{}", w.row_begin, w.row_begin + w.n_rows);
  return fmt::format("{} {}{}", w.tensor, dtype_name(w.dtype), rows);
}

std::string params_text(const OpParams& params) {
  const auto extra = [](const auto& op) {
    std::string text;
    if (op.result_scale) text += " * " + op.result_scale->tensor;
    if (op.bias) text += " + " + op.bias->tensor;
    return text;
  };
  return std::visit(
      Overloaded{
          [](const EmbedOp& op) { return fmt::format("embed({}, scale {:g})", rows_text(op.weight), op.scale); },
          [](const RmsNormOp& op) { return fmt::format("rms_norm({}, eps {:g})", rows_text(op.weight), op.eps); },
          [&](const MatmulOp& op) { return fmt::format("matmul({}{})", rows_text(op.weight), extra(op)); },
          [](const RopeOp& op) {
            return fmt::format("rope({}, {} dims, inv_freq {:.6g}..{:.6g}, magnitude {:g})",
                               op.rope.pairing == RopePairing::kInterleaved ? "interleaved" : "half-split", op.rope.n_rot,
                               op.rope.inv_freq.front(), op.rope.inv_freq.back(), op.rope.magnitude);
          },
          [](const KvAppendOp& op) { return fmt::format("kv_append(layer {})", op.layer_idx); },
          [](const AttentionOp& op) {
            return fmt::format("attention(layer {}, heads {}/{} of {}, scale {:g}, window {})", op.layer_idx, op.n_head,
                               op.n_head_kv, op.head_dim, op.scale, op.window_tokens);
          },
          [](const AddOp&) { return std::string("add"); },
          [](const GluOp& op) { return std::string(op.activation == Activation::kSilu ? "glu(silu)" : "glu(gelu_tanh)"); },
          [](const RouteOp& op) { return fmt::format("route({} of {})", op.n_used, op.n_experts); },
          [&](const MoeMatmulOp& op) { return fmt::format("moe_matmul({}{})", rows_text(op.weight), extra(op)); },
          [](const MoeCombineOp&) { return std::string("moe_combine"); },
          [](const SoftcapOp& op) { return fmt::format("softcap({:g})", op.cap); },
          [](const SelectRowsOp&) { return std::string("select_rows(last)"); },
      },
      params);
}

}  // namespace

uint64_t Value::n_elems() const {
  uint64_t n = 1;
  for (uint64_t dim : shape) n *= dim;
  return n;
}

OpGraph build_graph(const ModelDesc& model, const GraphOptions& options) {
  if (options.n_tokens == 0) throw Error(ErrorKind::kInternal, "build_graph: a step of 0 tokens");
  return GraphBuilder(model, options).build();
}

std::string dump(const OpGraph& graph) {
  const GraphOptions& o = graph.options;
  std::string text = fmt::format("step of {} tokens, context {}, logits of {}: {} ops, {} values\n", o.n_tokens,
                                 o.max_ctx_tokens, o.all_logits ? "all tokens" : "the last token", graph.ops.size(),
                                 graph.values.size());
  for (const Op& op : graph.ops) {
    std::string outputs, inputs;
    for (ValueId id : op.outputs) {
      const Value& v = graph.values[id];
      outputs += fmt::format("{}%{}:{}[{}]", outputs.empty() ? "" : ", ", id, v.type == ValueType::kF32 ? "f32" : "i32",
                             fmt::join(v.shape, ","));
    }
    for (ValueId id : op.inputs) inputs += fmt::format(" %{}", id);
    text += fmt::format("{:<24} {}{}{}{}\n", op.name, outputs, outputs.empty() ? "" : " = ", params_text(op.params), inputs);
  }
  return text;
}

}  // namespace sj
