#include "models/model_desc.h"

#include <cmath>
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "tests/support/tiny_model.h"

namespace sj::model_desc_test {
namespace {

using test::tiny_model;
using test::TinyModel;

ModelDesc describe(const TinyModel& model) {
  const test::TempDir dir;
  return describe_model(open_gguf(dir.write("m.gguf", model.bytes())));
}

void expect_refused(const TinyModel& model, ErrorKind kind, const std::string& fragment) {
  try {
    describe(model);
    ADD_FAILURE() << "accepted; expected an error with: " << fragment;
  } catch (const Error& error) {
    EXPECT_EQ(kind_name(error.kind()), kind_name(kind)) << error.what();
    EXPECT_NE(error.message().find(fragment), std::string::npos) << "'" << error.message() << "' lacks '" << fragment << "'";
    EXPECT_NE(error.where().find("m.gguf"), std::string::npos) << error.where();
  }
}

class EveryArchitecture : public testing::TestWithParam<const char*> {};

TEST_P(EveryArchitecture, IsDescribed) {
  const ModelDesc m = describe(tiny_model(GetParam()));
  EXPECT_EQ(m.architecture, GetParam());
  EXPECT_EQ(m.n_layers, 3u);
  ASSERT_EQ(m.layers.size(), 3u);
  EXPECT_EQ(m.n_vocab, 40u);
  EXPECT_FALSE(m.is_head_tied);
  EXPECT_EQ(m.head.tensor, "output.weight");
  EXPECT_EQ(m.layers[2].wk.n_rows, 16u);
  EXPECT_EQ(m.layers[2].wk.n_cols, 32u);
  EXPECT_EQ(m.layers[1].w_down.n_rows, 32u);
  EXPECT_EQ(m.layers[1].attention.rope.inv_freq.size(), 4u);
  EXPECT_NE(dump(m).find("blk.2.attn_output.weight"), std::string::npos);
}

TEST_P(EveryArchitecture, MissesNoTensorSilently) {
  const TinyModel whole = tiny_model(GetParam());
  for (const auto& [name, tensor] : whole.tensors) {
    if (name == "output.weight") continue;   // absence means a tied head
    TinyModel m = whole;
    m.tensors.erase(name);
    expect_refused(m, ErrorKind::kBadModel, "tensor " + name + " is missing");
  }
}

TEST_P(EveryArchitecture, ChecksEveryShape) {
  const TinyModel whole = tiny_model(GetParam());
  for (const auto& [name, tensor] : whole.tensors) {
    TinyModel m = whole;
    m.tensors[name].shape.front() += 1;
    m.tensors[name].values.resize(m.tensors[name].values.size() * 2);
    expect_refused(m, ErrorKind::kBadModel, "tensor " + name + ": expected shape");
  }
}

TEST_P(EveryArchitecture, ChecksEveryType) {
  const TinyModel whole = tiny_model(GetParam());
  for (const auto& [name, tensor] : whole.tensors) {
    TinyModel m = whole;
    m.tensors[name].dtype = DType::kI32;
    expect_refused(m, ErrorKind::kBadModel, "tensor " + name + ": expected a floating-point or quantised type, found I32");
  }
}

TEST_P(EveryArchitecture, RefusesTensorsThatItWouldLeaveOut) {
  TinyModel m = tiny_model(GetParam());
  m.add("blk.0.attn_sinks.weight", {4}, 1);
  expect_refused(m, ErrorKind::kUnsupported, "tensor blk.0.attn_sinks.weight is not part of architecture");
}

TEST_P(EveryArchitecture, RefusesInconsistentHyperparameters) {
  struct Bad { const char* suffix; test::TinyKey value; ErrorKind kind; const char* fragment; };
  const std::vector<Bad> bads = {
      {"block_count", 0u, ErrorKind::kBadModel, "block_count: expected 1.."},
      {"block_count", 4000000000u, ErrorKind::kBadModel, "found 4000000000"},
      {"block_count", 4u, ErrorKind::kBadModel, "blk.3.attn_norm.weight is missing"},
      {"embedding_length", 0u, ErrorKind::kBadModel, "embedding_length: expected 1.."},
      {"context_length", 0u, ErrorKind::kBadModel, "context_length: expected 1.."},
      {"vocab_size", 41u, ErrorKind::kBadModel, "token_embd.weight: expected shape [41, 32]"},
      {"attention.head_count", 0u, ErrorKind::kBadModel, "attention.head_count: expected 1..65536 heads in layer 0, found 0"},
      {"attention.head_count_kv", 3u, ErrorKind::kBadModel, "expected a divisor of the 4 query heads in layer 0, found 3"},
      {"attention.head_count_kv", 0u, ErrorKind::kBadModel, "found 0"},
      {"attention.head_count_kv", std::vector<uint32_t>{2, 2}, ErrorKind::kBadModel, "attention.head_count_kv"},
      {"attention.value_length", 4u, ErrorKind::kUnsupported, "attention.value_length: expected the key length 8, found 4"},
      {"rope.dimension_count", 9u, ErrorKind::kBadModel, "rope.dimension_count: expected 2..8, found 9"},
      {"rope.dimension_count", 7u, ErrorKind::kBadModel, "expected an even number, found 7"},
      {"rope.freq_base", 0.0f, ErrorKind::kBadModel, "rope.freq_base: expected a positive number"},
      {"rope.freq_base", NAN, ErrorKind::kBadModel, "expected a finite f32, found float nan"},
      {"attention.layer_norm_rms_epsilon", -1.0f, ErrorKind::kBadModel, "expected a positive number, found -1"},
      {"attention.causal", false, ErrorKind::kUnsupported, "only causal attention"},
      {"rope.scaling.type", std::string("longrope"), ErrorKind::kUnsupported, "supported are none, linear and yarn, found 'longrope'"},
      {"rope.scaling.factor", -2.0f, ErrorKind::kBadModel, "rope.scaling.factor"},
  };
  for (const Bad& bad : bads) {
    SCOPED_TRACE(bad.suffix);
    TinyModel m = tiny_model(GetParam());
    m.key(bad.suffix) = bad.value;
    expect_refused(m, bad.kind, bad.fragment);
  }
}

TEST_P(EveryArchitecture, RequiresItsKeys) {
  for (const char* suffix : {"block_count", "embedding_length", "context_length", "attention.layer_norm_rms_epsilon"}) {
    TinyModel m = tiny_model(GetParam());
    m.keys.erase(m.arch + "." + suffix);
    expect_refused(m, ErrorKind::kBadModel, std::string(GetParam()) + "." + suffix);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryArchitecture, testing::Values("llama", "qwen2", "qwen3", "qwen3moe", "gemma3"));

TEST(ModelDesc, RefusesAnUnknownArchitecture) {
  TinyModel m = tiny_model("llama");
  m.arch = "mamba";
  expect_refused(m, ErrorKind::kUnsupported, "architecture 'mamba' is not supported; supported: gemma3, llama, qwen2, qwen3, qwen3moe");
}

TEST(ModelDesc, ChecksTensorsAgainstTheWidth) {
  TinyModel m = tiny_model("llama");
  m.key("embedding_length") = 64u;
  expect_refused(m, ErrorKind::kBadModel, "token_embd.weight: expected shape [40, 64] (slowest first), found [40, 32]");
}

TEST(ModelDesc, TiesTheHeadWhenItIsAbsent) {
  TinyModel m = tiny_model("llama");
  m.tensors.erase("output.weight");
  const ModelDesc desc = describe(m);
  EXPECT_TRUE(desc.is_head_tied);
  EXPECT_EQ(desc.head, desc.embedding);
}

TEST(ModelDesc, CountsTheVocabularyWhenThereIsOne) {
  TinyModel m = tiny_model("llama");
  m.keys.erase("llama.vocab_size");
  m.keys["tokenizer.ggml.tokens"] = std::vector<std::string>(40, "x");
  EXPECT_EQ(describe(m).n_vocab, 40u);
  m.keys["tokenizer.ggml.tokens"] = std::vector<std::string>(39, "x");
  expect_refused(m, ErrorKind::kBadModel, "token_embd.weight: expected shape [39, 32]");
}

TEST(ModelDesc, SeesFusedQkvAsThreeViews) {
  TinyModel m = tiny_model("llama");
  for (const char* part : {"q", "k", "v"}) m.tensors.erase(std::string("blk.1.attn_") + part + ".weight");
  m.add("blk.1.attn_qkv.weight", {64, 32}, 0.5f);
  m.add("blk.1.attn_qkv.bias", {64}, 0.5f);
  const LayerDesc layer = describe(m).layers[1];
  EXPECT_EQ(layer.wq.row_begin, 0u);
  EXPECT_EQ(layer.wq.n_rows, 32u);
  EXPECT_EQ(layer.wk.row_begin, 32u);
  EXPECT_EQ(layer.wv.row_begin, 48u);
  EXPECT_EQ(layer.wv.n_rows, 16u);
  EXPECT_EQ(layer.wv.tensor, "blk.1.attn_qkv.weight");
  ASSERT_TRUE(layer.bv);
  EXPECT_EQ(layer.bv->row_begin * layer.bv->n_cols, 48u);
  EXPECT_EQ(layer.bv->n_rows * layer.bv->n_cols, 16u);
}

TEST(ModelDesc, SeesFusedExpertsAsTwoViews) {
  TinyModel m = tiny_model("qwen3moe");
  m.tensors.erase("blk.0.ffn_gate_exps.weight");
  m.tensors.erase("blk.0.ffn_up_exps.weight");
  m.add("blk.0.ffn_gate_up_exps.weight", {4, 96, 32}, 0.4f);
  const LayerDesc layer = describe(m).layers[0];
  EXPECT_EQ(layer.w_gate.row_begin, 0u);
  EXPECT_EQ(layer.w_up.row_begin, 48u);
  EXPECT_EQ(layer.w_up.n_rows, 48u);
  EXPECT_EQ(layer.w_up.expert_stride_rows, 96u);
  EXPECT_EQ(layer.w_up.n_experts, 4u);
}

TEST(ModelDesc, TakesHeadCountsPerLayer) {
  TinyModel m = tiny_model("llama");
  m.key("attention.head_count_kv") = std::vector<uint32_t>{2, 1, 2};
  for (const char* part : {"k", "v"}) m.add(std::string("blk.1.attn_") + part + ".weight", {8, 32}, 0.5f);
  const ModelDesc desc = describe(m);
  EXPECT_EQ(desc.layers[1].attention.n_head_kv, 1u);
  EXPECT_EQ(desc.layers[2].attention.n_head_kv, 2u);
}

TEST(ModelDesc, RecordsSideScalesAndIgnoresActivationScales) {
  TinyModel m = tiny_model("qwen3moe");
  m.add("blk.0.attn_q.scale", {1}, 1);
  m.add("blk.0.ffn_down_exps.scale", {4}, 1);
  m.add("blk.0.attn_q.input_scale", {1}, 1);
  const ModelDesc desc = describe(m);
  ASSERT_TRUE(find_result_scale(desc, desc.layers[0].wq));
  EXPECT_EQ(find_result_scale(desc, desc.layers[0].wq)->tensor, "blk.0.attn_q.scale");
  ASSERT_TRUE(find_result_scale(desc, desc.layers[0].w_down));
  EXPECT_EQ(find_result_scale(desc, desc.layers[0].w_down)->n_cols, 4u);
  EXPECT_FALSE(find_result_scale(desc, desc.layers[1].wq));
  EXPECT_EQ(desc.ignored_tensors, std::vector<std::string>{"blk.0.attn_q.input_scale"});
  m.add("token_embd.scale", {1}, 1);
  expect_refused(m, ErrorKind::kUnsupported, "token_embd.scale");
}

TEST(ModelDesc, RefusesASideScaleOfAnotherSize) {
  TinyModel m = tiny_model("qwen3moe");
  m.add("blk.0.ffn_down_exps.scale", {3}, 1);
  expect_refused(m, ErrorKind::kBadModel, "blk.0.ffn_down_exps.scale: expected shape [4]");
}

TEST(ModelDesc, RefusesImpossibleExperts) {
  TinyModel m = tiny_model("qwen3moe");
  m.key("expert_used_count") = 5u;
  expect_refused(m, ErrorKind::kBadModel, "expert_used_count: expected 1..4, found 5");
  m.key("expert_used_count") = 2u;
  m.key("expert_group_count") = 2u;
  expect_refused(m, ErrorKind::kUnsupported, "expert groups are not supported");
  m = tiny_model("qwen3moe");
  m.key("expert_count") = 0u;
  expect_refused(m, ErrorKind::kBadModel, "expert_count: expected a positive number, found 0");
}

TEST(ModelDesc, LlamaMayHaveExpertsAndBiases) {
  TinyModel m = tiny_model("llama", {.n_experts = 4, .n_used = 2});
  m.add("blk.0.attn_q.bias", {32}, 1);
  m.add("blk.0.attn_output.bias", {32}, 1);
  const ModelDesc desc = describe(m);
  EXPECT_TRUE(desc.layers[0].is_moe);
  EXPECT_TRUE(desc.layers[0].bq && desc.layers[0].bo);
  EXPECT_FALSE(desc.layers[1].bq);
  m = tiny_model("llama");
  m.add("blk.2.ffn_up.bias", {48}, 1);
  EXPECT_TRUE(describe(m).layers[2].b_up);
}

TEST(ModelDesc, Qwen2TakesBiasesOfQkvAndHead) {
  TinyModel m = tiny_model("qwen2");
  m.add("blk.0.attn_k.bias", {16}, 1);
  m.add("output.bias", {40}, 1);
  const ModelDesc desc = describe(m);
  EXPECT_TRUE(desc.layers[0].bk && desc.head_bias);
  m.add("blk.0.attn_output.bias", {32}, 1);
  expect_refused(m, ErrorKind::kUnsupported, "blk.0.attn_output.bias");
  m = tiny_model("qwen2");
  m.key("attention.head_count") = 2u;
  expect_refused(m, ErrorKind::kUnsupported, "qwen2: expected 2 heads of 16 rotated dims");
}

TEST(ModelDesc, Gemma3HasWindowsInAllButEverySixthLayer) {
  TinyModel m = tiny_model("gemma3", {.n_layers = 7});
  m.key("attention.sliding_window") = 5u;
  m.key("rope.freq_base") = 1e6f;
  m.key("rope.scaling.factor") = 8.0f;
  const ModelDesc desc = describe(m);
  for (const LayerDesc& layer : desc.layers) {
    const bool is_global = layer.idx == 5;
    EXPECT_EQ(layer.attention.window_tokens, is_global ? 0u : 5u) << layer.idx;
    EXPECT_DOUBLE_EQ(layer.attention.rope.inv_freq[1], is_global ? std::pow(1e6, -0.25) / 8 : 0.1) << layer.idx;
    EXPECT_EQ(layer.activation, Activation::kGeluTanh);
    EXPECT_TRUE(layer.attn_post_norm && layer.ffn_post_norm);
  }
  EXPECT_FLOAT_EQ(desc.embedding_scale, std::sqrt(32.0f));
  EXPECT_EQ(desc.logit_softcap, 0);
  m.key("attention.sliding_window_pattern") = 2u;
  EXPECT_EQ(describe(m).layers[1].attention.window_tokens, 0u);
  m.key("attention.sliding_window_pattern") = 0u;
  EXPECT_EQ(describe(m).layers[5].attention.window_tokens, 5u);
  m.key("attention.sliding_window_pattern") = 1u;
  EXPECT_EQ(describe(m).layers[0].attention.window_tokens, 0u);
  m.key("attention.sliding_window_pattern") = std::vector<uint32_t>(7, 1);
  EXPECT_EQ(describe(m).layers[0].attention.window_tokens, 5u);
  EXPECT_EQ(describe(m).layers[5].attention.window_tokens, 0u);
}

TEST(ModelDesc, Gemma3WithoutWindowIsGlobalEverywhere) {
  TinyModel m = tiny_model("gemma3");
  m.key("rope.freq_base") = 1e6f;
  m.key("final_logit_softcapping") = 30.0f;
  const ModelDesc desc = describe(m);
  EXPECT_EQ(desc.layers[0].attention.window_tokens, 0u);
  EXPECT_DOUBLE_EQ(desc.layers[0].attention.rope.inv_freq[1], std::pow(1e6, -0.25));
  EXPECT_EQ(desc.logit_softcap, 30);
  m.key("attn_logit_softcapping") = 50.0f;
  expect_refused(m, ErrorKind::kUnsupported, "attn_logit_softcapping");
}

TEST(ModelDesc, Gemma3Of62LayersScalesAttentionByModelWidth) {
  const ModelDesc desc = describe(tiny_model("gemma3", {.n_layers = 62, .d_model = 48}));
  EXPECT_FLOAT_EQ(desc.layers[0].attention.scale, 1 / std::sqrt(12.0f));
  EXPECT_FLOAT_EQ(describe(tiny_model("gemma3")).layers[0].attention.scale, 1 / std::sqrt(8.0f));
}

}  // namespace
}  // namespace sj::model_desc_test
