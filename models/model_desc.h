// What a model file says the model is: hyperparameters, layer kinds, which tensor plays which role. No hardware.
// In: GgufFile. Out: ModelDesc, read by build_graph, memory planning and inspect.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/gguf_file.h"

namespace sj {

enum class RopePairing { kInterleaved, kHalfSplit };   ///< llama "NORM": (2j, 2j+1); "NEOX": (j, j + n_rot/2)
enum class Activation { kSilu, kGeluTanh };

/// Rows [row_begin, row_begin + n_rows) of a tensor seen as a matrix [n_rows, row_elems]; whole tensor by default.
/// Fused attn_qkv and ffn_gate_up are three and two such views of one tensor. A vector is one row; a slice of a vector (of
/// a fused attn_qkv.bias) has rows of one element. In both cases element row_begin * n_cols is the first.
struct WeightRef {
  std::string tensor;        ///< GGUF name
  uint64_t row_begin = 0;
  uint64_t n_rows = 0;       ///< of one matrix; for expert tensors of one expert
  uint64_t n_cols = 0;       ///< fastest dimension
  uint64_t n_experts = 1;    ///< > 1: that many matrices; expert e starts at row e * expert_stride_rows + row_begin
  uint64_t expert_stride_rows = 0;
  DType dtype = DType::kF32;
  bool operator==(const WeightRef&) const = default;
};

/// Rotary embedding of one layer kind, fully resolved: the angle of pair j at position p is p * inv_freq[j].
struct RopeDesc {
  RopePairing pairing = RopePairing::kHalfSplit;
  uint32_t n_rot = 0;              ///< rotated dims a head; the rest passes through
  std::vector<double> inv_freq;    ///< [n_rot / 2], linear/yarn/rope_freqs applied; computed in double
  float magnitude = 1;             ///< multiplies cos and sin (yarn)
};

struct AttentionDesc {
  uint32_t n_head = 0, n_head_kv = 0, head_dim = 0;
  float scale = 1;                 ///< multiplies q . k
  uint32_t window_tokens = 0;      ///< 0: full; else key visible iff 0 <= p_q - p_k < window_tokens
  RopeDesc rope;
};

struct LayerDesc {
  uint32_t idx = 0;
  AttentionDesc attention;
  WeightRef attn_norm, wq, wk, wv, wo;
  std::optional<WeightRef> bq, bk, bv, bo, q_norm, k_norm, attn_post_norm;
  WeightRef ffn_norm;
  std::optional<WeightRef> ffn_post_norm;
  Activation activation = Activation::kSilu;
  bool is_moe = false;
  WeightRef w_gate, w_up, w_down;          ///< dense, or experts when is_moe
  std::optional<WeightRef> b_gate, b_up, b_down;
  std::optional<WeightRef> router;
};

struct ModelDesc {
  std::string file_path;                   ///< for messages
  std::string architecture, name;
  uint32_t n_layers = 0, d_model = 0, n_vocab = 0, trained_ctx_tokens = 0;
  float rms_eps = 0;
  float embedding_scale = 1;               ///< gemma: sqrt(d_model)
  float logit_softcap = 0;                 ///< 0: none
  uint32_t n_experts = 0, n_experts_used = 0;
  WeightRef embedding, output_norm, head;  ///< head == embedding when tied
  std::optional<WeightRef> head_bias;
  bool is_head_tied = false;
  std::vector<LayerDesc> layers;
  /// NVFP4 side scales: the matmul result of tensor X is multiplied by the value(s) of X.scale ([1] or [n_experts]).
  std::vector<std::pair<std::string, WeightRef>> result_scales;
  /// Tensors of the file that take no part in the computation (activation scales, reranker heads, ...).
  std::vector<std::string> ignored_tensors;
};

/// The side scale of a weight's matmul results, or nullopt.
std::optional<WeightRef> find_result_scale(const ModelDesc& model, const WeightRef& weight);

/// Throws kUnsupported (unknown architecture; a variant we refuse) or kBadModel (missing key or tensor, wrong shape or
/// type, inconsistent hyperparameters), naming file, key or tensor, rule, expected and found.
ModelDesc describe_model(const GgufFile& file);

/// Hyperparameters, then one line a layer kind and range, then the tensor roles of each layer; for `inspect --stage model`.
std::string dump(const ModelDesc& model);

}  // namespace sj
