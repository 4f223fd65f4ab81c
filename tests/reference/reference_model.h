// A whole transformer in float64 from named tensors, written from the layer's formulas: every optional part is used when its
// tensor or parameter is there. Includes nothing of the project.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/reference/reference_ops.h"

namespace ref {

struct ModelParams {
  std::size_t n_layers = 0, d_model = 0, n_head = 0, n_head_kv = 0, head_dim = 0, n_vocab = 0, n_experts = 0, n_used = 0, ff_dim = 0;
  double eps = 0, embedding_scale = 1, softcap = 0, attention_scale = 1, rope_magnitude = 1;
  bool is_interleaved = false;
  Act act = Act::kSilu;
  Vec inv_freq, inv_freq_local;   ///< local: layers with a window
  std::size_t window = 0, window_period = 0;   ///< layer l has the window iff l % period < period - 1
};

using Tensors = std::map<std::string, Vec>;

/// Logits [n_tokens, n_vocab] of a sequence from position 0.
inline Vec forward(const ModelParams& p, const Tensors& tensors, const std::vector<int>& tokens) {
  const auto has = [&](const std::string& name) { return tensors.count(name) != 0; };
  const auto get = [&](const std::string& name) -> const Vec& { return tensors.at(name); };
  const std::size_t n = tokens.size();
  std::vector<int> positions(n);
  std::iota(positions.begin(), positions.end(), 0);
  const auto linear = [&](const std::string& stem, const Vec& x, std::size_t m_dim, std::size_t k_dim) {
    Vec y = matmul(get(stem + ".weight"), x, m_dim, k_dim);
    if (has(stem + ".scale"))
      for (double& v : y) v *= get(stem + ".scale")[0];
    return has(stem + ".bias") ? add_bias(y, get(stem + ".bias")) : y;
  };
  Vec x;
  for (int token : tokens)
    for (std::size_t i = 0; i < p.d_model; ++i) x.push_back(get("token_embd.weight")[std::size_t(token) * p.d_model + i] * p.embedding_scale);
  for (std::size_t l = 0; l < p.n_layers; ++l) {
    const std::string blk = "blk." + std::to_string(l) + ".";
    const bool is_local = p.window != 0 && l % p.window_period < p.window_period - 1;
    const Vec& freq = is_local ? p.inv_freq_local : p.inv_freq;
    const Vec h = rmsnorm(x, get(blk + "attn_norm.weight"), p.d_model, p.eps);
    Vec q = linear(blk + "attn_q", h, p.n_head * p.head_dim, p.d_model);
    Vec k = linear(blk + "attn_k", h, p.n_head_kv * p.head_dim, p.d_model);
    const Vec v = linear(blk + "attn_v", h, p.n_head_kv * p.head_dim, p.d_model);
    if (has(blk + "attn_q_norm.weight")) q = rmsnorm(q, get(blk + "attn_q_norm.weight"), p.head_dim, p.eps);
    if (has(blk + "attn_k_norm.weight")) k = rmsnorm(k, get(blk + "attn_k_norm.weight"), p.head_dim, p.eps);
    q = rope(q, positions, p.n_head, p.head_dim, freq, p.is_interleaved, p.rope_magnitude);
    k = rope(k, positions, p.n_head_kv, p.head_dim, freq, p.is_interleaved, p.rope_magnitude);
    const Vec o = attention(q, k, v, p.n_head, p.n_head_kv, p.head_dim, p.attention_scale, 0, is_local ? p.window : 0);
    Vec a = linear(blk + "attn_output", o, p.d_model, p.n_head * p.head_dim);
    if (has(blk + "post_attention_norm.weight")) a = rmsnorm(a, get(blk + "post_attention_norm.weight"), p.d_model, p.eps);
    x = add(x, a);
    const Vec h2 = rmsnorm(x, get(blk + "ffn_norm.weight"), p.d_model, p.eps);
    Vec f;
    if (p.n_experts > 0) {
      const Vec logits = matmul(get(blk + "ffn_gate_inp.weight"), h2, p.n_experts, p.d_model);
      for (std::size_t t = 0; t < n; ++t) {
        const auto row = [&](const Vec& from, std::size_t dim) {
          return Vec(from.begin() + std::ptrdiff_t(t * dim), from.begin() + std::ptrdiff_t((t + 1) * dim));
        };
        Route r = route(row(logits, p.n_experts), p.n_used);
        if (has(blk + "ffn_down_exps.scale"))
          for (std::size_t s = 0; s < r.ids.size(); ++s) r.weights[s] *= get(blk + "ffn_down_exps.scale")[std::size_t(r.ids[s])];
        const Vec y = moe_ffn(row(h2, p.d_model), r, get(blk + "ffn_gate_exps.weight"), get(blk + "ffn_up_exps.weight"),
                              get(blk + "ffn_down_exps.weight"), p.ff_dim, p.act);
        f.insert(f.end(), y.begin(), y.end());
      }
    } else {
      const Vec gated = glu(linear(blk + "ffn_gate", h2, p.ff_dim, p.d_model), linear(blk + "ffn_up", h2, p.ff_dim, p.d_model), p.act);
      f = linear(blk + "ffn_down", gated, p.d_model, p.ff_dim);
    }
    if (has(blk + "post_ffw_norm.weight")) f = rmsnorm(f, get(blk + "post_ffw_norm.weight"), p.d_model, p.eps);
    x = add(x, f);
  }
  x = rmsnorm(x, get("output_norm.weight"), p.d_model, p.eps);
  const std::string head = has("output.weight") ? "output" : "token_embd";
  Vec logits = linear(head, x, p.n_vocab, p.d_model);
  if (head != "output" && has("output.bias")) logits = add_bias(logits, get("output.bias"));
  return p.softcap != 0 ? softcap(logits, p.softcap) : logits;
}

}  // namespace ref
