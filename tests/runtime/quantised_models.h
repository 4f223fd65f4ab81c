// Small models with random quantised weights, on disk: what the fused decode rules apply to.
#pragma once

#include <random>
#include <string>

#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/tiny_model.h"

namespace sj::test {

/// A tensor's bytes: the model's floats, or random blocks with ordinary scales.
inline std::string tensor_bytes(const TinyTensor& tensor, const TensorInfo& info) {
  if (info.dtype == DType::kF32) return std::string(reinterpret_cast<const char*>(tensor.values.data()), 4 * tensor.values.size());
  std::mt19937_64 engine(std::hash<std::string>()(info.name));
  std::string bytes(info.n_bytes, '\0');
  const uint32_t block_bytes = dtype_info(info.dtype).block_bytes;
  for (size_t at = 0; at < bytes.size(); at += block_bytes) {
    const std::span<uint8_t> block(reinterpret_cast<uint8_t*>(bytes.data()) + at, block_bytes);
    for (uint8_t& byte : block) byte = static_cast<uint8_t>(engine());
    tame_scales(info.dtype, block, engine);
  }
  return bytes;
}

/// Writes the model with random blocks where its tensors are quantised; returns the path.
inline std::string write_quantised(const TempDir& dir, const TinyModel& m) {
  GgufWriter writer;
  writer.put_string("general.architecture", m.arch);
  for (const auto& [name, value] : m.keys) {
    if (const auto* u = std::get_if<uint32_t>(&value)) writer.put_u32(name, *u);
    if (const auto* f = std::get_if<float>(&value)) writer.put_f32(name, *f);
    if (const auto* s = std::get_if<std::string>(&value)) writer.put_string(name, *s);
  }
  for (const auto& [name, tensor] : m.tensors) writer.add_tensor(name, tensor.dtype, tensor.shape);
  return dir.write(m.arch + ".gguf", gguf_bytes(writer, [&](const TensorInfo& info) { return tensor_bytes(m.tensors.at(info.name), info); }));
}

/// Gives every tensor whose name ends in `suffix` a type.
inline void set_type(TinyModel& m, const std::string& suffix, DType dtype) {
  for (auto& [name, tensor] : m.tensors)
    if (name.ends_with(suffix)) tensor.dtype = dtype;
}

/// 128 experts, 8 a token; Q4_K with Q6_K values, Q5_0 and Q8_0 experts; heads of 64. Every router row is a multiple of the same
/// vector, so that which experts win does not hang on small errors of its input.
inline TinyModel moe_model(uint32_t n_experts = 128) {
  TinyModel m = tiny_model("qwen3moe", {.n_layers = 2, .d_model = 256, .n_head = 4, .n_head_kv = 2, .head_dim = 64, .ff_dim = 64, .n_vocab = 300, .ctx = 512,
                                        .n_experts = n_experts, .n_used = 8});
  for (const char* suffix : {"attn_q.weight", "attn_k.weight", "attn_output.weight", "token_embd.weight"}) set_type(m, suffix, DType::kQ4_K);
  for (const char* suffix : {"attn_v.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight"})
    set_type(m, suffix, DType::kQ6_K);
  m.tensors.at("output.weight").dtype = DType::kQ6_K;
  set_type(m, "0.ffn_down_exps.weight", DType::kQ5_0);
  set_type(m, "1.ffn_down_exps.weight", DType::kQ8_0);
  for (auto& [name, tensor] : m.tensors) {
    if (!name.ends_with("ffn_gate_inp.weight")) continue;
    const std::vector<float> direction(tensor.values.begin(), tensor.values.begin() + 256);
    for (size_t e = 0; e < n_experts; ++e) {
      const float factor = (float(e * 37 % n_experts) - float(n_experts) / 2) * 0.05f;   // a permutation
      for (size_t i = 0; i < 256; ++i) tensor.values[e * 256 + i] = factor * direction[i];
    }
  }
  return m;
}

/// Q4_0, Q4_1 and Q8_0; three heads of 64 over one.
inline TinyModel dense_model(const std::string& arch = "llama") {
  TinyModel m = tiny_model(arch, {.n_layers = 2, .d_model = 256, .n_head = 3, .n_head_kv = 1, .head_dim = 64, .ff_dim = 96, .n_vocab = 200, .ctx = 512});
  for (const char* suffix : {"attn_q.weight", "attn_k.weight", "ffn_gate.weight", "ffn_up.weight"}) set_type(m, suffix, DType::kQ4_1);
  for (const char* suffix : {"attn_v.weight", "attn_output.weight", "ffn_down.weight", "token_embd.weight"}) set_type(m, suffix, DType::kQ8_0);
  m.tensors.at("output.weight").dtype = DType::kQ4_0;
  return m;
}

}  // namespace sj::test
