// The parts that most architectures have in common: hyperparameters, attention, feed-forward, head.
// In: DescReader. Out: pieces of ModelDesc. Called by arch_*.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/desc_reader.h"
#include "models/model_desc.h"
#include "models/rope.h"

namespace sj {

/// Hyperparameters that every architecture has, checked for consistency. Arrays have one entry a layer.
struct CommonParams {
  uint32_t n_layers = 0, d_model = 0, n_vocab = 0, trained_ctx_tokens = 0, head_dim = 0, n_rot = 0;
  uint32_t n_experts = 0, n_experts_used = 0;
  std::vector<uint32_t> n_head, n_head_kv, ff_dim;
  double rms_eps = 0, rope_base = 0;
};

/// Throws kBadModel or kUnsupported naming the key, the rule, expected and found.
CommonParams read_common(const DescReader& reader);
/// The keys rope.scaling.*; throws kUnsupported for longrope, unknown types and yarn constants other than the usual ones.
RopeScaling read_rope_scaling(const DescReader& reader, const CommonParams& params);

/// File-wide fields, embedding, output norm and head (tied when output.weight is absent); layers are still empty.
ModelDesc begin_model(DescReader& reader, const CommonParams& params);
/// A layer with its attention sizes and scale 1/sqrt(head_dim), full window, `rope`.
LayerDesc begin_layer(const CommonParams& params, uint32_t layer_idx, const RopeDesc& rope);

struct AttentionTensors {
  bool has_qk_norm = false;      ///< attn_q_norm and attn_k_norm are required
  bool may_have_qkv_bias = false;
  bool may_have_output_bias = false;
};

/// attn_norm, Q, K, V (separate, or row views of a fused attn_qkv: all Q, then all K, then all V) and attn_output.
void bind_attention(DescReader& reader, const CommonParams& params, const AttentionTensors& which, LayerDesc& layer);
/// ffn_norm, ffn_gate, ffn_up, ffn_down of width ff_dim[layer].
void bind_dense_ffn(DescReader& reader, const CommonParams& params, bool may_have_bias, LayerDesc& layer);
/// ffn_norm, router and experts of width `ff_dim`; gate and up separate or as two halves of ffn_gate_up_exps.
void bind_moe_ffn(DescReader& reader, const CommonParams& params, uint32_t ff_dim, LayerDesc& layer);

/// "blk.<layer>.<suffix>".
std::string layer_tensor(uint32_t layer_idx, std::string_view suffix);

}  // namespace sj
