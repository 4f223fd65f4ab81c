#include "tests/e2e/tiny_model.h"

#include <cstring>
#include <string_view>
#include <vector>

#include "tests/support/gguf_writer.h"

namespace sj::test {
namespace {

constexpr uint32_t kVocab = 3 + 256, kLayers = 2, kHeadsKv = 1, kFf = 64;

void put_vocab(GgufWriter& writer) {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};   // unknown, control, control
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    texts.push_back(text);
    types.push_back(6);
  }
  const std::vector<float> scores(texts.size(), 0.0f);
  writer.put_string("tokenizer.ggml.model", "llama");
  writer.put_strings("tokenizer.ggml.tokens", texts);
  writer.put_f32s("tokenizer.ggml.scores", scores);
  writer.put_i32s("tokenizer.ggml.token_type", types);
  writer.put_u32("tokenizer.ggml.bos_token_id", 1);
  writer.put_u32("tokenizer.ggml.eos_token_id", 2);
  writer.put_bool("tokenizer.ggml.add_bos_token", true);
  writer.put_bool("tokenizer.ggml.add_space_prefix", false);
}

void put_hyperparameters(GgufWriter& writer, const TinyModelOptions& options) {
  const auto key = [&](const char* suffix) { return options.architecture + "." + suffix; };
  writer.put_string("general.architecture", options.architecture);
  writer.put_string("general.name", "tiny");
  writer.put_u32(key("block_count"), kLayers);
  writer.put_u32(key("context_length"), options.ctx_tokens);
  writer.put_u32(key("embedding_length"), options.d_model);
  writer.put_u32(key("feed_forward_length"), kFf);
  writer.put_u32(key("attention.head_count"), options.n_head);
  writer.put_u32(key("attention.head_count_kv"), kHeadsKv);
  writer.put_f32(key("attention.layer_norm_rms_epsilon"), 1e-5f);
  writer.put_u32(key("vocab_size"), kVocab);
  if (!options.has_vocab) writer.put_string("tokenizer.ggml.model", "no_vocab");
  for (uint32_t i = 0; i < options.n_extra_keys; ++i) writer.put_u32("extra." + std::to_string(i), i);
}

void add_tensors(GgufWriter& writer, const TinyModelOptions& options) {
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
    if (name == options.left_out_tensor) return;
    if (name == options.misshaped_tensor) shape.front() += 1;
    writer.add_tensor(name, name == options.wrong_type_tensor ? DType::kI32 : DType::kF32, std::move(shape));
  };
  constexpr uint64_t kD = 32;
  const uint64_t kv_rows = kD / options.n_head * kHeadsKv;
  add("token_embd.weight", {kVocab, kD});
  for (uint32_t i = 0; i < kLayers; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    add(layer + "attn_norm.weight", {kD});
    add(layer + "attn_q.weight", {kD, kD});
    add(layer + "attn_k.weight", {kv_rows, kD});
    add(layer + "attn_v.weight", {kv_rows, kD});
    add(layer + "attn_output.weight", {kD, kD});
    add(layer + "ffn_norm.weight", {kD});
    add(layer + "ffn_gate.weight", {kFf, kD});
    add(layer + "ffn_up.weight", {kFf, kD});
    add(layer + "ffn_down.weight", {kD, kFf});
  }
  add("output_norm.weight", {kD});
  add("output.weight", {kVocab, kD});
}

}  // namespace

std::string tiny_model_bytes(const TinyModelOptions& options) {
  GgufWriter writer;
  put_hyperparameters(writer, options);
  if (options.has_vocab) put_vocab(writer);
  add_tensors(writer, options);
  uint32_t state = 12345;
  return gguf_bytes(writer, [&](const TensorInfo& tensor) {
    const bool is_norm = tensor.name.find("norm") != std::string::npos;
    std::string data(tensor.n_bytes, '\0');
    for (uint64_t i = 0; i < tensor.n_bytes / sizeof(float); ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = is_norm ? 1.0f : (static_cast<float>(state >> 8) / (1u << 23) - 1.0f) * 0.5f;
      std::memcpy(data.data() + i * sizeof(float), &value, sizeof value);
    }
    return data;
  });
}

}  // namespace sj::test
