#include "models/blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

// Far above any model and small enough that products of three of them fit 64 bits.
constexpr uint32_t kMaxDim = 1u << 24;
constexpr uint32_t kMaxHeads = 1u << 16;
constexpr uint32_t kAnyU32 = std::numeric_limits<uint32_t>::max();

uint32_t read_n_layers(const DescReader& reader) {
  // More blocks than tensors can't be; checked before anything is sized by it.
  const uint64_t n_tensors = reader.file().tensors().size();
  return reader.require_u32("block_count", 1, static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(n_tensors, 1), kAnyU32)));
}

uint32_t read_n_vocab(const DescReader& reader) {
  if (const GgufArray* tokens = reader.file().find_array("tokenizer.ggml.tokens")) {
    if (tokens->count == 0 || tokens->count > kMaxDim)
      throw Error(ErrorKind::kBadModel,
                  fmt::format("key tokenizer.ggml.tokens: expected 1..{} tokens, found {}", kMaxDim, tokens->count));
    return static_cast<uint32_t>(tokens->count);
  }
  return reader.require_u32("vocab_size", 1, kMaxDim);
}

void read_heads(const DescReader& reader, CommonParams& p) {
  p.n_head = reader.file().get_u32s(reader.key("attention.head_count"), p.n_layers, 0);
  const bool has_kv = reader.has_key("attention.head_count_kv");
  p.n_head_kv = has_kv ? reader.file().get_u32s(reader.key("attention.head_count_kv"), p.n_layers, 0) : p.n_head;
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    const uint32_t q = p.n_head[i], kv = p.n_head_kv[i];
    if (q == 0 || q > kMaxHeads)
      throw Error(ErrorKind::kBadModel, fmt::format("key {}: expected 1..{} heads in layer {}, found {}",
                                                    reader.key("attention.head_count"), kMaxHeads, i, q));
    if (kv == 0 || q % kv != 0)
      throw Error(ErrorKind::kBadModel, fmt::format("key {}: expected a divisor of the {} query heads in layer {}, found {}",
                                                    reader.key("attention.head_count_kv"), q, i, kv));
  }
}

void read_head_dim(const DescReader& reader, CommonParams& p) {
  if (!reader.has_key("attention.key_length") && p.d_model % p.n_head[0] != 0)
    throw Error(ErrorKind::kBadModel, fmt::format("key {} is absent and embedding_length {} is not a multiple of {} heads",
                                                  reader.key("attention.key_length"), p.d_model, p.n_head[0]));
  const uint32_t fallback = std::max(p.d_model / p.n_head[0], 1u);
  p.head_dim = reader.get_u32("attention.key_length", fallback, 1, kMaxHeads);
  const uint32_t value_dim = reader.get_u32("attention.value_length", fallback, 1, kMaxHeads);
  if (value_dim != p.head_dim)
    throw Error(ErrorKind::kUnsupported,
                fmt::format("key {}: expected the key length {}, found {}; heads with values of another size are not supported",
                            reader.key("attention.value_length"), p.head_dim, value_dim));
  p.n_rot = reader.get_u32("rope.dimension_count", p.head_dim, 2, p.head_dim);
  if (p.n_rot % 2 != 0)
    throw Error(ErrorKind::kBadModel,
                fmt::format("key {}: expected an even number, found {}", reader.key("rope.dimension_count"), p.n_rot));
}

void read_experts(const DescReader& reader, CommonParams& p) {
  p.n_experts = reader.get_u32("expert_count", 0, 0, kMaxHeads);
  if (p.n_experts == 0) return;
  p.n_experts_used = reader.require_u32("expert_used_count", 1, p.n_experts);
  for (const char* suffix : {"expert_group_count", "expert_group_used_count"})
    if (const uint32_t n = reader.get_u32(suffix, 0, 0, kAnyU32); n > 1)
      throw Error(ErrorKind::kUnsupported, fmt::format("key {}: expert groups are not supported, found {}", reader.key(suffix), n));
}

void require_default(const DescReader& reader, std::string_view suffix, float expected) {
  const float found = reader.file().get_f32(reader.key(suffix), expected);
  if (found != expected)
    throw Error(ErrorKind::kUnsupported,
                fmt::format("key {}: only {} is supported, found {}", reader.key(suffix), expected, found));
}

}  // namespace

std::string layer_tensor(uint32_t layer_idx, std::string_view suffix) { return fmt::format("blk.{}.{}", layer_idx, suffix); }

CommonParams read_common(const DescReader& reader) {
  CommonParams p;
  p.n_layers = read_n_layers(reader);
  p.d_model = reader.require_u32("embedding_length", 1, kMaxDim);
  p.trained_ctx_tokens = reader.require_u32("context_length", 1, kAnyU32);
  p.n_vocab = read_n_vocab(reader);
  p.rms_eps = reader.require_positive("attention.layer_norm_rms_epsilon");
  p.rope_base = reader.get_positive("rope.freq_base", 10000);
  read_heads(reader, p);
  read_head_dim(reader, p);
  read_experts(reader, p);
  p.ff_dim = reader.file().get_u32s(reader.key("feed_forward_length"), p.n_layers, 0);
  for (uint32_t dim : p.ff_dim)
    if (dim > kMaxDim)
      throw Error(ErrorKind::kBadModel,
                  fmt::format("key {}: expected at most {}, found {}", reader.key("feed_forward_length"), kMaxDim, dim));
  if (!reader.file().get_bool(reader.key("attention.causal"), true))
    throw Error(ErrorKind::kUnsupported,
                fmt::format("key {}: only causal attention is supported, found false", reader.key("attention.causal")));
  return p;
}

RopeScaling read_rope_scaling(const DescReader& reader, const CommonParams& params) {
  RopeScaling s;
  s.attn_factor = reader.get_positive("rope.scaling.attn_factor", 1);
  const std::string_view type = reader.file().get_string(reader.key("rope.scaling.type"), "linear");
  const float factor_key = reader.file().get_f32(reader.key("rope.scale_linear"), 0);
  const float factor = reader.file().get_f32(reader.key("rope.scaling.factor"), factor_key);
  if (!std::isfinite(factor) || factor < 0)
    throw Error(ErrorKind::kBadModel, fmt::format("key {}: expected a number that is not negative, found {}",
                                                  reader.key("rope.scaling.factor"), factor));
  if (type == "none") return s;
  if (type != "linear" && type != "yarn")
    throw Error(ErrorKind::kUnsupported, fmt::format("key {}: supported are none, linear and yarn, found '{}'",
                                                     reader.key("rope.scaling.type"), type));
  if (factor == 0) return s;
  s.kind = type == "yarn" ? RopeScalingKind::kYarn : RopeScalingKind::kLinear;
  s.factor = factor;
  if (s.kind == RopeScalingKind::kLinear) return s;
  s.original_ctx_tokens =
      reader.get_u32("rope.scaling.original_context_length", params.trained_ctx_tokens, 1, kAnyU32);
  require_default(reader, "rope.scaling.yarn_beta_fast", 32);
  require_default(reader, "rope.scaling.yarn_beta_slow", 1);
  require_default(reader, "rope.scaling.yarn_ext_factor", 1);
  require_default(reader, "rope.scaling.yarn_attn_factor", 1);
  return s;
}

ModelDesc begin_model(DescReader& reader, const CommonParams& params) {
  ModelDesc m{.file_path = reader.file().path(),
              .architecture = std::string(reader.file().require_string("general.architecture")),
              .name = std::string(reader.file().get_string("general.name", ""))};
  m.n_layers = params.n_layers;
  m.d_model = params.d_model;
  m.n_vocab = params.n_vocab;
  m.trained_ctx_tokens = params.trained_ctx_tokens;
  m.rms_eps = static_cast<float>(params.rms_eps);
  m.n_experts = params.n_experts;
  m.n_experts_used = params.n_experts_used;
  if (reader.has_tensor("token_embd.scale"))
    throw Error(ErrorKind::kUnsupported, "tensor token_embd.scale: a scale of the embedding is not defined");
  m.embedding = reader.require_matrix("token_embd.weight", params.n_vocab, params.d_model);
  m.output_norm = reader.require_vector("output_norm.weight", params.d_model);
  const std::optional<WeightRef> head = reader.find_matrix("output.weight", params.n_vocab, params.d_model);
  m.is_head_tied = !head.has_value();
  m.head = head.value_or(m.embedding);
  return m;
}

LayerDesc begin_layer(const CommonParams& params, uint32_t layer_idx, const RopeDesc& rope) {
  LayerDesc layer{.idx = layer_idx};
  layer.attention = {.n_head = params.n_head[layer_idx],
                     .n_head_kv = params.n_head_kv[layer_idx],
                     .head_dim = params.head_dim,
                     .scale = static_cast<float>(1.0 / std::sqrt(double(params.head_dim))),
                     .window_tokens = 0,
                     .rope = rope};
  return layer;
}

void bind_attention(DescReader& reader, const CommonParams& params, const AttentionTensors& which, LayerDesc& layer) {
  const auto name = [&](std::string_view suffix) { return layer_tensor(layer.idx, suffix); };
  const uint64_t d = params.d_model;
  const uint64_t q_rows = uint64_t{layer.attention.n_head} * params.head_dim;
  const uint64_t kv_rows = uint64_t{layer.attention.n_head_kv} * params.head_dim;
  const auto rows_of = [](const WeightRef& fused, uint64_t begin, uint64_t n) {
    WeightRef view = fused;
    view.row_begin = begin;
    view.n_rows = n;
    return view;
  };
  // A slice of a vector is seen as a column of single-element rows.
  const auto elems_of = [](const WeightRef& fused, uint64_t begin, uint64_t n) {
    if (is_quantised(fused.dtype))
      throw Error(ErrorKind::kUnsupported, fmt::format("tensor {}: a bias of type {} can't be cut into Q, K and V",
                                                       fused.tensor, dtype_name(fused.dtype)));
    WeightRef view = fused;
    view.row_begin = begin;
    view.n_rows = n;
    view.n_cols = 1;
    return view;
  };
  layer.attn_norm = reader.require_vector(name("attn_norm.weight"), d);
  if (const auto fused = reader.find_matrix(name("attn_qkv.weight"), q_rows + 2 * kv_rows, d)) {
    layer.wq = rows_of(*fused, 0, q_rows);
    layer.wk = rows_of(*fused, q_rows, kv_rows);
    layer.wv = rows_of(*fused, q_rows + kv_rows, kv_rows);
    if (which.may_have_qkv_bias) {
      if (const auto bias = reader.find_vector(name("attn_qkv.bias"), q_rows + 2 * kv_rows)) {
        layer.bq = elems_of(*bias, 0, q_rows);
        layer.bk = elems_of(*bias, q_rows, kv_rows);
        layer.bv = elems_of(*bias, q_rows + kv_rows, kv_rows);
      }
    }
  } else {
    layer.wq = reader.require_matrix(name("attn_q.weight"), q_rows, d);
    layer.wk = reader.require_matrix(name("attn_k.weight"), kv_rows, d);
    layer.wv = reader.require_matrix(name("attn_v.weight"), kv_rows, d);
    if (which.may_have_qkv_bias) {
      layer.bq = reader.find_vector(name("attn_q.bias"), q_rows);
      layer.bk = reader.find_vector(name("attn_k.bias"), kv_rows);
      layer.bv = reader.find_vector(name("attn_v.bias"), kv_rows);
    }
  }
  if (which.has_qk_norm) {
    layer.q_norm = reader.require_vector(name("attn_q_norm.weight"), params.head_dim);
    layer.k_norm = reader.require_vector(name("attn_k_norm.weight"), params.head_dim);
  }
  layer.wo = reader.require_matrix(name("attn_output.weight"), d, q_rows);
  if (which.may_have_output_bias) layer.bo = reader.find_vector(name("attn_output.bias"), d);
}

void bind_dense_ffn(DescReader& reader, const CommonParams& params, bool may_have_bias, LayerDesc& layer) {
  const auto name = [&](std::string_view suffix) { return layer_tensor(layer.idx, suffix); };
  const uint64_t ff = params.ff_dim[layer.idx];
  if (ff == 0)
    throw Error(ErrorKind::kBadModel,
                fmt::format("key {}: expected a positive width for layer {}, found 0", reader.key("feed_forward_length"), layer.idx));
  layer.ffn_norm = reader.require_vector(name("ffn_norm.weight"), params.d_model);
  layer.w_gate = reader.require_matrix(name("ffn_gate.weight"), ff, params.d_model);
  layer.w_up = reader.require_matrix(name("ffn_up.weight"), ff, params.d_model);
  layer.w_down = reader.require_matrix(name("ffn_down.weight"), params.d_model, ff);
  if (!may_have_bias) return;
  layer.b_gate = reader.find_vector(name("ffn_gate.bias"), ff);
  layer.b_up = reader.find_vector(name("ffn_up.bias"), ff);
  layer.b_down = reader.find_vector(name("ffn_down.bias"), params.d_model);
}

void bind_moe_ffn(DescReader& reader, const CommonParams& params, uint32_t ff_dim, LayerDesc& layer) {
  const auto name = [&](std::string_view suffix) { return layer_tensor(layer.idx, suffix); };
  const uint64_t n = params.n_experts, d = params.d_model;
  if (ff_dim == 0)
    throw Error(ErrorKind::kBadModel, fmt::format("layer {}: the width of the experts is 0", layer.idx));
  layer.is_moe = true;
  layer.ffn_norm = reader.require_vector(name("ffn_norm.weight"), d);
  layer.router = reader.require_matrix(name("ffn_gate_inp.weight"), n, d);
  const std::string fused = name("ffn_gate_up_exps.weight");
  if (reader.has_tensor(fused)) {
    const WeightRef both = reader.require_experts(fused, n, 2 * uint64_t{ff_dim}, d);
    layer.w_gate = layer.w_up = both;
    layer.w_gate.n_rows = layer.w_up.n_rows = ff_dim;
    layer.w_up.row_begin = ff_dim;
  } else {
    layer.w_gate = reader.require_experts(name("ffn_gate_exps.weight"), n, ff_dim, d);
    layer.w_up = reader.require_experts(name("ffn_up_exps.weight"), n, ff_dim, d);
  }
  layer.w_down = reader.require_experts(name("ffn_down_exps.weight"), n, d, ff_dim);
}

}  // namespace sj
