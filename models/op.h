// The semantic ops of a transformer step. Shapes are slowest first; every activation is f32 [n_tokens, ...].
// Positions and token ids are the step's, not values: EmbedOp has no input, RopeOp, KvAppendOp and AttentionOp know them.
// A matmul's result is declared with the shape its reader wants, so heads need no reshape: q is [n_tokens, n_head, head_dim].
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "models/model_desc.h"

namespace sj {

using ValueId = uint32_t;   ///< index into OpGraph::values

/// y[t,:] = scale * E[token[t],:]                      inputs: -            output: [n_tokens, d_model]
struct EmbedOp { WeightRef weight; float scale = 1; };
/// y = w * x / sqrt(mean(x^2) + eps) over the last axis; x may be [n_tokens, n_heads, dim] (arXiv:1910.07467)
struct RmsNormOp { WeightRef weight; float eps = 0; };
/// y[t,m] = result_scale * sum_k W[m,k] x[t,k] + b[m]       output: [n_tokens, m_dim] or [n_tokens, n_heads, m_dim / n_heads]
struct MatmulOp { WeightRef weight; std::optional<WeightRef> bias, result_scale; };
/// Rotates the first n_rot dims of each head; x [n_tokens, n_heads, head_dim]
struct RopeOp { RopeDesc rope; };
/// Stores k, v [n_tokens, n_head_kv, head_dim] at the tokens' positions.   inputs: k, v; output: none (kNoValue)
struct KvAppendOp { uint32_t layer_idx = 0; };
/// inputs: q [n_tokens, n_head, head_dim]; output [n_tokens, n_head * head_dim]. Reads the layer's cache up to the own position.
struct AttentionOp { uint32_t layer_idx = 0; uint32_t n_head = 0, n_head_kv = 0, head_dim = 0; float scale = 1; uint32_t window_tokens = 0; };
/// y = a + b
struct AddOp {};
/// y = act(gate) * up                              inputs: gate, up, both [n_tokens, (k,) ff_dim]
struct GluOp { Activation activation = Activation::kSilu; };
/// inputs: logits [n_tokens, n_experts]; outputs: ids i32 [n_tokens, k] and weights [n_tokens, k]: softmax over the k
/// largest logits (identical to softmax over all, top-k, renormalise); ties: lower id first; descending order
struct RouteOp { uint32_t n_experts = 0, n_used = 0; };
/// y[t,s,m] = result_scale[e] * W[e][m,:] . x[t,(s),:] + b[e,m], e = ids[t,s]   inputs: x [n_tokens, K] or [n_tokens, k, K], ids
struct MoeMatmulOp { WeightRef weight; std::optional<WeightRef> bias, result_scale; };
/// y[t,m] = sum_s weights[t,s] * x[t,s,m], in slot order           inputs: x [n_tokens, k, M], weights
struct MoeCombineOp {};
/// y = c * tanh(x / c)
struct SoftcapOp { float cap = 0; };
/// Keeps the row of the last valid token.   input [n_tokens, d]; output [1, d]. Absent from graphs of one token or all logits.
struct SelectRowsOp { bool last_only = true; };

using OpParams = std::variant<EmbedOp, RmsNormOp, MatmulOp, RopeOp, KvAppendOp, AttentionOp, AddOp, GluOp, RouteOp,
                              MoeMatmulOp, MoeCombineOp, SoftcapOp, SelectRowsOp>;

inline constexpr ValueId kNoValue = ~0u;

struct Op {
  std::string name;                ///< "blk.3.attn_q": layer and role, used in dumps, profile and errors
  OpParams params;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
};

}  // namespace sj
