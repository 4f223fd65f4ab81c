// Small random models of each architecture as GGUF files, to be bent by a test before they are written.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "models/gguf_writer.h"
#include "tests/support/gguf_writer.h"

namespace sj::test {

using TinyKey = std::variant<uint32_t, float, bool, std::string, std::vector<uint32_t>, std::vector<std::string>>;

struct TinyTensor {
  std::vector<uint64_t> shape;   ///< slowest first
  std::vector<float> values;
  DType dtype = DType::kF32;     ///< written with zero bytes when not F32
};

struct TinyModel {
  std::string arch;
  std::map<std::string, TinyKey> keys;         ///< full names
  std::map<std::string, TinyTensor> tensors;

  TinyKey& key(const std::string& suffix) { return keys[arch + "." + suffix]; }

  /// Values in about [-amplitude, amplitude], the same for the same name and shape; norms lie around one.
  void add(const std::string& name, std::vector<uint64_t> shape, float amplitude) {
    TinyTensor tensor{.shape = std::move(shape), .values = {}, .dtype = DType::kF32};
    uint64_t n = 1, seed = 1469598103934665603ull;
    for (uint64_t dim : tensor.shape) n *= dim;
    for (char c : name) seed = (seed ^ uint64_t(uint8_t(c))) * 1099511628211ull;
    const bool is_norm = name.find("norm") != std::string::npos;
    for (uint64_t i = 0; i < n; ++i) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      const float unit = float(int32_t(seed >> 33) - (1 << 30)) / float(1 << 30);
      tensor.values.push_back(is_norm ? 1.0f + 0.3f * unit : amplitude * unit);
    }
    tensors[name] = std::move(tensor);
  }

  std::string bytes() const {
    GgufWriter writer;
    writer.put_string("general.architecture", arch);
    for (const auto& [name, value] : keys) put(writer, name, value);
    for (const auto& [name, tensor] : tensors) writer.add_tensor(name, tensor.dtype, tensor.shape);
    return gguf_bytes(writer, [&](const TensorInfo& info) {
      const std::vector<float>& v = tensors.at(info.name).values;
      if (info.dtype != DType::kF32) return std::string();
      return std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float));
    });
  }

 private:
  static void put(GgufWriter& w, const std::string& name, const TinyKey& value) {
    if (const auto* v = std::get_if<uint32_t>(&value)) w.put_u32(name, *v);
    if (const auto* v = std::get_if<float>(&value)) w.put_f32(name, *v);
    if (const auto* v = std::get_if<bool>(&value)) w.put_bool(name, *v);
    if (const auto* v = std::get_if<std::string>(&value)) w.put_string(name, *v);
    if (const auto* v = std::get_if<std::vector<uint32_t>>(&value)) w.put_u32s(name, *v);
    if (const auto* v = std::get_if<std::vector<std::string>>(&value)) w.put_strings(name, *v);
  }
};

struct TinyDims {
  uint32_t n_layers = 3, d_model = 32, n_head = 4, n_head_kv = 2, head_dim = 8, ff_dim = 48, n_vocab = 40, ctx = 64;
  uint32_t n_experts = 0, n_used = 0;
};

/// llama, qwen2, qwen3, qwen3moe or gemma3 with every tensor that the architecture requires and an untied head.
inline TinyModel tiny_model(const std::string& arch, TinyDims d = {}) {
  TinyModel m{.arch = arch, .keys = {}, .tensors = {}};
  const bool is_gemma = arch == "gemma3", has_qk_norm = arch == "qwen3" || arch == "qwen3moe" || is_gemma;
  if (arch == "qwen3moe" && d.n_experts == 0) d.n_experts = 4, d.n_used = 2;
  m.keys["tokenizer.ggml.model"] = std::string("no_vocab");
  m.key("vocab_size") = d.n_vocab;
  m.key("context_length") = d.ctx;
  m.key("embedding_length") = d.d_model;
  m.key("block_count") = d.n_layers;
  m.key("feed_forward_length") = d.ff_dim;
  m.key("attention.head_count") = d.n_head;
  m.key("attention.head_count_kv") = d.n_head_kv;
  m.key("attention.key_length") = d.head_dim;
  m.key("attention.value_length") = d.head_dim;
  m.key("attention.layer_norm_rms_epsilon") = 1e-5f;
  m.key("rope.freq_base") = 10000.0f;
  if (d.n_experts > 0) {
    m.key("expert_count") = d.n_experts;
    m.key("expert_used_count") = d.n_used;
    if (arch == "qwen3moe") m.key("expert_feed_forward_length") = d.ff_dim;
  }
  const uint64_t q = uint64_t{d.n_head} * d.head_dim, kv = uint64_t{d.n_head_kv} * d.head_dim;
  m.add("token_embd.weight", {d.n_vocab, d.d_model}, 1);
  m.add("output_norm.weight", {d.d_model}, 1);
  m.add("output.weight", {d.n_vocab, d.d_model}, 0.5f);
  for (uint32_t i = 0; i < d.n_layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    m.add(blk + "attn_norm.weight", {d.d_model}, 1);
    m.add(blk + "attn_q.weight", {q, d.d_model}, 0.5f);
    m.add(blk + "attn_k.weight", {kv, d.d_model}, 0.5f);
    m.add(blk + "attn_v.weight", {kv, d.d_model}, 0.5f);
    m.add(blk + "attn_output.weight", {d.d_model, q}, 0.5f);
    if (has_qk_norm) m.add(blk + "attn_q_norm.weight", {d.head_dim}, 1), m.add(blk + "attn_k_norm.weight", {d.head_dim}, 1);
    if (is_gemma) m.add(blk + "post_attention_norm.weight", {d.d_model}, 1), m.add(blk + "post_ffw_norm.weight", {d.d_model}, 1);
    m.add(blk + "ffn_norm.weight", {d.d_model}, 1);
    if (d.n_experts > 0) {
      m.add(blk + "ffn_gate_inp.weight", {d.n_experts, d.d_model}, 0.7f);
      m.add(blk + "ffn_gate_exps.weight", {d.n_experts, d.ff_dim, d.d_model}, 0.4f);
      m.add(blk + "ffn_up_exps.weight", {d.n_experts, d.ff_dim, d.d_model}, 0.4f);
      m.add(blk + "ffn_down_exps.weight", {d.n_experts, d.d_model, d.ff_dim}, 0.4f);
    } else {
      m.add(blk + "ffn_gate.weight", {d.ff_dim, d.d_model}, 0.4f);
      m.add(blk + "ffn_up.weight", {d.ff_dim, d.d_model}, 0.4f);
      m.add(blk + "ffn_down.weight", {d.d_model, d.ff_dim}, 0.4f);
    }
  }
  return m;
}

}  // namespace sj::test
