// Descriptions of small models that exist in no file: enough for graphs and lowering.
#pragma once

#include <cmath>
#include <string>

#include "jit/device_info.h"
#include "models/model_desc.h"
#include "models/op_graph.h"

namespace sj::test {

inline WeightRef matrix(std::string tensor, uint64_t n_rows, uint64_t n_cols, DType dtype = DType::kQ8_0) {
  return {.tensor = std::move(tensor), .n_rows = n_rows, .n_cols = n_cols, .dtype = dtype};
}
inline WeightRef vector(std::string tensor, uint64_t n) { return matrix(std::move(tensor), 1, n, DType::kF32); }
inline WeightRef experts(std::string tensor, uint64_t n_experts, uint64_t n_rows, uint64_t n_cols) {
  WeightRef ref = matrix(std::move(tensor), n_rows, n_cols, DType::kQ4_0);
  ref.n_experts = n_experts;
  ref.expert_stride_rows = n_rows;
  return ref;
}

struct SmallModelOptions {
  uint32_t n_layers = 2;
  bool is_moe = false, has_qk_norm = false, has_post_norm = false, has_bias = false;
  float softcap = 0;
  DType dtype = DType::kQ8_0;
};

/// d_model 64, 4 heads of 16 over 2, feed-forward 96, vocabulary 128, tied head.
inline ModelDesc small_model(const SmallModelOptions& o = {}) {
  ModelDesc m{.file_path = "small.gguf", .architecture = "llama", .name = "small"};
  m.n_layers = o.n_layers;
  m.d_model = 64;
  m.n_vocab = 128;
  m.trained_ctx_tokens = 256;
  m.rms_eps = 1e-5f;
  m.logit_softcap = o.softcap;
  m.embedding = m.head = matrix("token_embd.weight", 128, 64, o.dtype);
  m.is_head_tied = true;
  m.output_norm = vector("output_norm.weight", 64);
  if (o.is_moe) m.n_experts = 8, m.n_experts_used = 2;
  for (uint32_t i = 0; i < o.n_layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    LayerDesc l{.idx = i};
    l.attention = {.n_head = 4, .n_head_kv = 2, .head_dim = 16, .scale = 0.25f};
    l.attention.rope = {.pairing = RopePairing::kHalfSplit, .n_rot = 16};
    for (uint32_t j = 0; j < 8; ++j) l.attention.rope.inv_freq.push_back(std::pow(10000.0, -2.0 * j / 16));
    l.attn_norm = vector(prefix + "attn_norm.weight", 64);
    l.wq = matrix(prefix + "attn_q.weight", 64, 64, o.dtype);
    l.wk = matrix(prefix + "attn_k.weight", 32, 64, o.dtype);
    l.wv = matrix(prefix + "attn_v.weight", 32, 64, o.dtype);
    l.wo = matrix(prefix + "attn_output.weight", 64, 64, o.dtype);
    if (o.has_bias) l.bq = vector(prefix + "attn_q.bias", 64);
    if (o.has_qk_norm) l.q_norm = vector(prefix + "attn_q_norm.weight", 16), l.k_norm = vector(prefix + "attn_k_norm.weight", 16);
    if (o.has_post_norm) {
      l.attn_post_norm = vector(prefix + "post_attention_norm.weight", 64);
      l.ffn_post_norm = vector(prefix + "post_ffw_norm.weight", 64);
    }
    l.ffn_norm = vector(prefix + "ffn_norm.weight", 64);
    l.is_moe = o.is_moe;
    if (o.is_moe) {
      l.router = matrix(prefix + "ffn_gate_inp.weight", 8, 64, DType::kF32);
      l.w_gate = experts(prefix + "ffn_gate_exps.weight", 8, 96, 64);
      l.w_up = experts(prefix + "ffn_up_exps.weight", 8, 96, 64);
      l.w_down = experts(prefix + "ffn_down_exps.weight", 8, 64, 96);
    } else {
      l.w_gate = matrix(prefix + "ffn_gate.weight", 96, 64, o.dtype);
      l.w_up = matrix(prefix + "ffn_up.weight", 96, 64, o.dtype);
      l.w_down = matrix(prefix + "ffn_down.weight", 64, 96, o.dtype);
    }
    m.layers.push_back(std::move(l));
  }
  return m;
}

inline DeviceInfo small_device() {
  return {.name = "test card", .compute_major = 12, .compute_minor = 0, .n_sms = 8, .smem_per_block_bytes = 99 << 10,
          .smem_per_sm_bytes = 100 << 10, .max_threads_per_sm = 1536, .l2_bytes = 8 << 20, .memory_bytes = uint64_t{1} << 30,
          .bandwidth_gb_per_s = 100};
}

inline OpGraph small_graph(const ModelDesc& model, uint32_t n_tokens = 1, bool all_logits = false) {
  return build_graph(model, {.n_tokens = n_tokens, .max_ctx_tokens = 256, .all_logits = all_logits});
}

}  // namespace sj::test
