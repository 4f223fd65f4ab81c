#include "models/model_desc.h"

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/registry.h"

namespace sj {
namespace {

std::string weight_text(const WeightRef& w) {
  std::string text = w.tensor;
  if (w.row_begin != 0 || w.n_cols == 1) text += fmt::format("[{}:{}]", w.row_begin, w.row_begin + w.n_rows);
  const std::string experts = w.n_experts > 1 ? fmt::format("{}x", w.n_experts) : "";
  return fmt::format("{} {}{}x{} {}", text, experts, w.n_rows, w.n_cols, dtype_name(w.dtype));
}

std::string attention_text(const AttentionDesc& a) {
  return fmt::format("{} heads, {} KV heads, head size {}, scale {}, {}, rope {} {} dims, inv_freq {:.6g}..{:.6g}, magnitude {}",
                     a.n_head, a.n_head_kv, a.head_dim, a.scale,
                     a.window_tokens == 0 ? "full" : fmt::format("window {}", a.window_tokens),
                     a.rope.pairing == RopePairing::kInterleaved ? "interleaved" : "half-split", a.rope.n_rot,
                     a.rope.inv_freq.front(), a.rope.inv_freq.back(), a.rope.magnitude);
}

std::string layer_text(const LayerDesc& layer) {
  std::string text = fmt::format("layer {}: {}\n", layer.idx, attention_text(layer.attention));
  const auto line = [&](std::string_view role, const std::optional<WeightRef>& w) {
    if (w) text += fmt::format("  {:<14} {}\n", role, weight_text(*w));
  };
  line("attn_norm", layer.attn_norm);
  line("q", layer.wq), line("q bias", layer.bq), line("q norm", layer.q_norm);
  line("k", layer.wk), line("k bias", layer.bk), line("k norm", layer.k_norm);
  line("v", layer.wv), line("v bias", layer.bv);
  line("o", layer.wo), line("o bias", layer.bo), line("attn_post_norm", layer.attn_post_norm);
  line("ffn_norm", layer.ffn_norm), line("router", layer.router);
  line(layer.activation == Activation::kSilu ? "gate (silu)" : "gate (gelu)", layer.w_gate), line("gate bias", layer.b_gate);
  line("up", layer.w_up), line("up bias", layer.b_up);
  line("down", layer.w_down), line("down bias", layer.b_down);
  line("ffn_post_norm", layer.ffn_post_norm);
  return text;
}

}  // namespace

ModelDesc describe_model(const GgufFile& file) {
  try {
    return require_architecture(file.require_string("general.architecture")).describe(file);
  } catch (const Error& error) {
    throw error.with_frame(fmt::format("model {}", file.path()));
  }
}

std::optional<WeightRef> find_result_scale(const ModelDesc& model, const WeightRef& weight) {
  for (const auto& [tensor, scale] : model.result_scales)
    if (tensor == weight.tensor) return scale;
  return std::nullopt;
}

std::string dump(const ModelDesc& m) {
  std::string text = fmt::format("architecture {}, name '{}'\n", m.architecture, m.name);
  text += fmt::format("{} layers, d_model {}, vocabulary {}, trained context {}, rms_eps {:g}\n", m.n_layers, m.d_model,
                      m.n_vocab, m.trained_ctx_tokens, m.rms_eps);
  text += fmt::format("embedding scale {:g}, logit softcap {:g}, experts {} of {}\n", m.embedding_scale, m.logit_softcap,
                      m.n_experts_used, m.n_experts);
  text += fmt::format("embedding {}\nhead {}{}\n", weight_text(m.embedding), weight_text(m.head), m.is_head_tied ? " (tied)" : "");
  if (m.head_bias) text += fmt::format("head bias {}\n", weight_text(*m.head_bias));
  text += fmt::format("output_norm {}\n", weight_text(m.output_norm));
  for (const LayerDesc& layer : m.layers) text += layer_text(layer);
  for (const auto& [tensor, scale] : m.result_scales) text += fmt::format("scale of {}: {}\n", tensor, weight_text(scale));
  for (const std::string& name : m.ignored_tensors) text += fmt::format("ignored {}\n", name);
  return text;
}

}  // namespace sj
