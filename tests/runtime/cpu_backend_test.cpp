// Whole tiny models on the CPU backend against a float64 forward pass, one variant of an architecture a test; and how the
// backend refuses what it is fed.
#include "runtime/cpu/cpu_backend.h"

#include <cmath>

#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "tests/reference/reference_model.h"
#include "tests/support/tiny_model.h"

namespace sj::cpu_backend_test {
namespace {

using test::tiny_model;
using test::TinyModel;

const std::vector<TokenId> kTokens = {3, 17, 0, 39, 8, 8, 21, 5, 30, 12, 1, 26, 33, 7, 19, 2, 38, 11, 24, 6};

ref::ModelParams reference_params(const TinyModel& m) {
  const bool is_gemma = m.arch == "gemma3";
  ref::ModelParams p{.n_layers = 3, .d_model = 32, .n_head = 4, .n_head_kv = 2, .head_dim = 8, .n_vocab = 40, .ff_dim = 48};
  p.eps = double(1e-5f);
  p.attention_scale = double(float(1 / std::sqrt(8.0)));
  p.is_interleaved = m.arch == "llama";
  p.inv_freq = p.inv_freq_local = ref::rope_inv_freq(8, 10000);
  if (m.keys.contains(m.arch + ".expert_count")) p.n_experts = 4, p.n_used = 2;
  if (is_gemma) {
    p.act = ref::Act::kGeluTanh;
    p.embedding_scale = double(float(std::sqrt(32.0)));
  }
  return p;
}

ref::Tensors reference_tensors(const TinyModel& m) {
  ref::Tensors tensors;
  for (const auto& [name, tensor] : m.tensors) tensors[name] = ref::to_f64(tensor.values);
  return tensors;
}

std::vector<float> logits_of(const TinyModel& m, const CpuOptions& options) {
  const test::TempDir dir;
  const GgufFile file = open_gguf(dir.write("m.gguf", m.bytes()));
  CpuBackend backend(file, describe_model(file), options);
  return backend.feed(kTokens, true);
}

void expect_matches(const TinyModel& m, const ref::ModelParams& p, const ref::Tensors& tensors) {
  const ref::Vec expected = ref::forward(p, tensors, kTokens);
  double size = 0;
  for (double v : expected) size = std::max(size, std::fabs(v));
  const CpuOptions exact{.n_threads = 2, .use_double = true, .kv_type = CpuKvType::kExact};
  // The result is rounded to float; everything before is float64.
  EXPECT_LT(ref::max_abs_diff(ref::to_f64(logits_of(m, exact)), expected), size * 0x1p-23);
  CpuOptions single = exact;
  single.use_double = false;
  // Three layers of sums of up to 48 terms: some hundred roundings of values of the logits' size.
  EXPECT_LT(ref::max_abs_diff(ref::to_f64(logits_of(m, single)), expected), size * 200 * 0x1p-24);
}

void expect_matches(const TinyModel& m) { expect_matches(m, reference_params(m), reference_tensors(m)); }

/// q8_0 keeps 8 bits of each block's largest number: about 0.4 % of it, so logits are near those of f16 and not the same.
TEST(CpuBackend, Q8CacheIsCloseToTheF16One) {
  const TinyModel m = tiny_model("qwen3", {.d_model = 64, .n_head = 2, .n_head_kv = 1, .head_dim = 64});
  const std::vector<float> f16 = logits_of(m, {.kv_type = CpuKvType::kF16}), q8 = logits_of(m, {.kv_type = CpuKvType::kQ8_0});
  double squares = 0, differences = 0;
  for (size_t i = 0; i < f16.size(); ++i) squares += f16[i] * f16[i], differences += (f16[i] - q8[i]) * (f16[i] - q8[i]);
  EXPECT_LT(differences, squares * 0.02 * 0.02);
  EXPECT_GT(differences, squares * 1e-5 * 1e-5) << "the cache was not rounded";
}

TEST(CpuBackend, Q8CacheRefusesHeadsThatAreNotWholeBlocks) {
  const TinyModel m = tiny_model("llama");
  try {
    logits_of(m, {.kv_type = CpuKvType::kQ8_0});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_EQ(error.message(), "attention: head_dim 8 is not a multiple of 32, as a q8_0 KV cache wants it; use --kv-type f16");
  }
}

TEST(CpuBackend, MatchesReferenceForEveryArchitecture) {
  for (const char* arch : {"llama", "qwen2", "qwen3", "qwen3moe", "gemma3"}) {
    SCOPED_TRACE(arch);
    expect_matches(tiny_model(arch));
  }
}

TEST(CpuBackend, MatchesReferenceWithATiedHead) {
  TinyModel m = tiny_model("qwen3");
  m.tensors.erase("output.weight");
  expect_matches(m);
}

TEST(CpuBackend, MatchesReferenceWithAllBiases) {
  TinyModel m = tiny_model("llama");
  for (const char* blk : {"blk.0.", "blk.2."}) {
    m.add(std::string(blk) + "attn_q.bias", {32}, 1);
    m.add(std::string(blk) + "attn_k.bias", {16}, 1);
    m.add(std::string(blk) + "attn_v.bias", {16}, 1);
    m.add(std::string(blk) + "attn_output.bias", {32}, 1);
    m.add(std::string(blk) + "ffn_gate.bias", {48}, 1);
    m.add(std::string(blk) + "ffn_up.bias", {48}, 1);
    m.add(std::string(blk) + "ffn_down.bias", {32}, 1);
  }
  expect_matches(m);
  m = tiny_model("qwen2");
  m.add("blk.1.attn_q.bias", {32}, 1);
  m.add("output.bias", {40}, 1);
  expect_matches(m);
}

TEST(CpuBackend, MatchesReferenceWithLlamaExperts) { expect_matches(tiny_model("llama", {.n_experts = 4, .n_used = 2})); }

TEST(CpuBackend, MatchesReferenceWithRopeDivisors) {
  TinyModel m = tiny_model("llama");
  m.add("rope_freqs.weight", {4}, 1);
  m.tensors["rope_freqs.weight"].values = {1, 1, 2, 8};
  ref::ModelParams p = reference_params(m);
  p.inv_freq[2] /= 2;
  p.inv_freq[3] /= 8;
  expect_matches(m, p, reference_tensors(m));
}

TEST(CpuBackend, MatchesReferenceWithYarn) {
  TinyModel m = tiny_model("qwen3");
  m.key("rope.scaling.type") = std::string("yarn");
  m.key("rope.scaling.factor") = 4.0f;
  ref::ModelParams p = reference_params(m);
  p.inv_freq = ref::yarn_inv_freq(8, 10000, 4, 64);
  p.rope_magnitude = double(float(1 + 0.1 * std::log(4.0)));
  expect_matches(m, p, reference_tensors(m));
}

TEST(CpuBackend, MatchesReferenceWithWindowsAndSoftcap) {
  TinyModel m = tiny_model("gemma3");
  m.key("attention.sliding_window") = 5u;
  m.key("attention.sliding_window_pattern") = 2u;
  m.key("rope.freq_base") = 1e6f;
  m.key("rope.scaling.factor") = 8.0f;
  m.key("final_logit_softcapping") = 2.0f;
  ref::ModelParams p = reference_params(m);
  p.window = 5;
  p.window_period = 2;
  p.softcap = 2;
  p.inv_freq = ref::rope_inv_freq(8, 1e6);
  for (double& f : p.inv_freq) f /= 8;
  expect_matches(m, p, reference_tensors(m));
  p.window = 6;
  EXPECT_GT(ref::max_abs_diff(ref::to_f64(logits_of(m, {.kv_type = CpuKvType::kExact})), ref::forward(p, reference_tensors(m), kTokens)), 1e-3)
      << "the test does not see the window's size";
}

TEST(CpuBackend, MatchesReferenceWithSideScales) {
  TinyModel m = tiny_model("qwen3moe");
  m.add("blk.0.attn_q.scale", {1}, 1);
  m.add("blk.1.ffn_down_exps.scale", {4}, 1);
  m.tensors["blk.0.attn_q.scale"].values = {0.3f};
  expect_matches(m);
}

TEST(CpuBackend, FusedTensorsGiveTheSameBits) {
  TinyModel split = tiny_model("llama"), fused = split;
  const auto join = [](TinyModel& m, std::vector<std::string> parts, const std::string& whole, std::vector<uint64_t> shape) {
    test::TinyTensor t{.shape = std::move(shape), .values = {}, .dtype = DType::kF32};
    for (const std::string& part : parts) {
      t.values.insert(t.values.end(), m.tensors[part].values.begin(), m.tensors[part].values.end());
      m.tensors.erase(part);
    }
    m.tensors[whole] = t;
  };
  for (TinyModel* m : {&split, &fused})
    for (const auto& [part, dim] : {std::pair<const char*, uint64_t>{"q", 32}, {"k", 16}, {"v", 16}})
      m->add(std::string("blk.1.attn_") + part + ".bias", {dim}, 1);
  join(fused, {"blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"}, "blk.1.attn_qkv.weight", {64, 32});
  join(fused, {"blk.1.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias"}, "blk.1.attn_qkv.bias", {64});
  EXPECT_EQ(logits_of(fused, {}), logits_of(split, {}));

  TinyModel experts = tiny_model("qwen3moe"), fused_experts = experts;
  test::TinyTensor both{.shape = {4, 96, 32}, .values = {}, .dtype = DType::kF32};
  const std::vector<float>& gate = experts.tensors["blk.2.ffn_gate_exps.weight"].values;
  const std::vector<float>& up = experts.tensors["blk.2.ffn_up_exps.weight"].values;
  for (long e = 0; e < 4; ++e) {
    both.values.insert(both.values.end(), gate.begin() + e * 48 * 32, gate.begin() + (e + 1) * 48 * 32);
    both.values.insert(both.values.end(), up.begin() + e * 48 * 32, up.begin() + (e + 1) * 48 * 32);
  }
  fused_experts.tensors.erase("blk.2.ffn_gate_exps.weight");
  fused_experts.tensors.erase("blk.2.ffn_up_exps.weight");
  fused_experts.tensors["blk.2.ffn_gate_up_exps.weight"] = both;
  EXPECT_EQ(logits_of(fused_experts, {}), logits_of(experts, {}));
}

class CpuBackendFeed : public testing::Test {
 protected:
  CpuBackendFeed() : file(open_gguf(dir.write("m.gguf", tiny_model("llama").bytes()))), backend(file, describe_model(file), {.max_ctx_tokens = 6}) {}

  void expect_usage_error(const std::vector<TokenId>& tokens, const std::string& fragment) {
    const uint32_t before = backend.n_past();
    try {
      backend.feed(tokens, false);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(error.message().find(fragment), std::string::npos) << error.what();
    }
    EXPECT_EQ(backend.n_past(), before) << "a refused feed must append nothing";
  }

  test::TempDir dir;
  GgufFile file;
  CpuBackend backend;
};

TEST_F(CpuBackendFeed, RefusesWhatDoesNotFitAndForeignIds) {
  expect_usage_error({}, "no tokens");
  expect_usage_error({40}, "token id 40: expected 0..39");
  expect_usage_error({1, -1}, "token id -1");
  expect_usage_error(std::vector<TokenId>(7, 1), "7 tokens do not fit the context: 0 of 6 are in use");
  backend.feed(std::vector<TokenId>{1, 2, 3, 4, 5}, false);
  expect_usage_error({1, 2}, "2 tokens do not fit the context: 5 of 6 are in use");
  EXPECT_EQ(backend.feed(std::vector<TokenId>{1}, false).size(), 40u);
}

TEST_F(CpuBackendFeed, ResetForgetsAllTokens) {
  const std::vector<TokenId> tokens = {4, 5, 6};
  const std::vector<float> first = backend.feed(tokens, true);
  EXPECT_EQ(backend.n_past(), 3u);
  backend.reset();
  EXPECT_EQ(backend.n_past(), 0u);
  EXPECT_EQ(backend.feed(tokens, true), first);
}


}  // namespace
}  // namespace sj::cpu_backend_test
