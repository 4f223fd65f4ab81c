// The fused decode rules: which launches a step of one token becomes, and why a rule does not apply.
#include "runtime/fusion_decode.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernel_src/args/decode_gemv.h"
#include "quantised_models.h"
#include "runtime/lowering.h"

namespace sj::fusion_decode_test {
namespace {

using test::dense_model;
using test::moe_model;
using test::set_type;
using test::TinyModel;

ModelDesc describe(const TinyModel& tiny) {
  const test::TempDir dir;
  return describe_model(open_gguf(write_quantised(dir, tiny)));
}

// Making a model takes longer than lowering it.
const ModelDesc& moe() {
  static const ModelDesc model = describe(moe_model());
  return model;
}
const ModelDesc& dense() {
  static const ModelDesc model = describe(dense_model());
  return model;
}

Lowered lower(const ModelDesc& model, ActivationMode activations = ActivationMode::kAuto, uint32_t n_tokens = 1, bool fuses = true) {
  const DeviceInfo device = require_device_profile("rtx5090");
  const OpGraph graph = build_graph(model, {.n_tokens = n_tokens, .max_ctx_tokens = 256});
  return lower_graph(graph, model, device, {.activations = activations}, fuses ? fusion_rules() : std::span<const FusionRule>());
}

std::vector<std::string> labels(const Lowered& lowered) {
  std::vector<std::string> all;
  for (const LoweredLaunch& launch : lowered.launches) all.push_back(launch.label);
  return all;
}
std::vector<std::string> entries(const Lowered& lowered) {
  std::vector<std::string> all;
  for (const LoweredLaunch& launch : lowered.launches) all.push_back(launch.spec.entry);
  return all;
}
long n_fused(const Lowered& lowered) {
  const std::vector<std::string> all = entries(lowered);
  return std::count_if(all.begin(), all.end(), [](const std::string& entry) { return entry.starts_with("sj_decode_"); });
}
bool has_note(const Lowered& lowered, const std::string& note) {
  return std::find(lowered.notes.begin(), lowered.notes.end(), note) != lowered.notes.end();
}
std::string all_notes(const Lowered& lowered) {
  std::string text;
  for (const std::string& note : lowered.notes) text += note + "\n";
  return text;
}
const LoweredLaunch& launch_of(const Lowered& lowered, const std::string& label) {
  for (const LoweredLaunch& launch : lowered.launches)
    if (launch.label == label) return launch;
  throw Error(ErrorKind::kInternal, "no launch " + label);
}

TEST(FusionDecode, MoeLayerIsFiveLaunches) {
  const Lowered lowered = lower(moe());
  EXPECT_EQ(all_notes(lowered), "");
  std::vector<std::string> want = {"sj_embed", "sj_decode_input"};
  for (int layer = 0; layer < 2; ++layer)
    for (const char* stage : {"gemv", "attention", "gemv", "glu", "moe_down"}) want.push_back(std::string("sj_decode_") + stage);
  want.push_back("sj_decode_head");
  EXPECT_EQ(entries(lowered), want);
  const std::vector<std::string> names = labels(lowered);
  EXPECT_EQ(std::vector<std::string>(names.begin() + 2, names.begin() + 7),
            (std::vector<std::string>{"blk.0.qkv", "blk.0.attention", "blk.0.attn_output", "blk.0.ffn_gate_up", "blk.0.ffn_down"}));
  EXPECT_EQ(names[12], "output");
}

TEST(FusionDecode, DenseLayerIsFiveLaunches) {
  const Lowered lowered = lower(dense());
  EXPECT_EQ(all_notes(lowered), "");
  std::vector<std::string> want = {"sj_embed", "sj_decode_input"};
  for (int layer = 0; layer < 2; ++layer)
    for (const char* stage : {"gemv", "attention", "gemv", "glu", "gemv"}) want.push_back(std::string("sj_decode_") + stage);
  want.push_back("sj_decode_head");
  EXPECT_EQ(entries(lowered), want);
}

TEST(FusionDecode, LaunchesKnowTheirLayer) {
  const Lowered lowered = lower(moe());
  for (const char* stage : {"qkv", "attention", "attn_output", "ffn_gate_up", "ffn_down"})
    EXPECT_EQ(launch_of(lowered, std::string("blk.1.") + stage).layer, 1) << stage;
  EXPECT_EQ(launch_of(lowered, "output").layer, -1);
}

TEST(FusionDecode, ReadsTheSameWeightsAsTheUnfusedStep) {
  for (const ModelDesc& model : {moe(), dense()}) {
    const auto tensors = [](const Lowered& lowered) {
      std::vector<std::string> names;
      for (const WeightUse& use : lowered.weights) names.push_back(use.ref.tensor);
      std::sort(names.begin(), names.end());
      return names;
    };
    EXPECT_EQ(tensors(lower(model)), tensors(lower(model, ActivationMode::kAuto, 1, false)));
  }
}

TEST(FusionDecode, CostsWhatTheUnfusedStepReads) {
  const ModelDesc& model = moe();
  const auto bytes = [](const Lowered& lowered) {
    double sum = 0;
    for (const LoweredLaunch& launch : lowered.launches) sum += launch.cost(100).bytes;
    return sum;
  };
  const double fused = bytes(lower(model)), plain = bytes(lower(model, ActivationMode::kAuto, 1, false));
  EXPECT_LT(fused, plain) << "activations are smaller and read less often";
  EXPECT_GT(fused, 0.8 * plain) << "the weights are the same";
}

TEST(FusionDecode, EveryPatchNamesAPointerOnce) {
  for (const ModelDesc& model : {moe(), dense()}) {
    const Lowered lowered = lower(model);
    for (const LoweredLaunch& launch : lowered.launches) {
      std::vector<size_t> offsets;
      for (const ArgPatch& patch : launch.patches) offsets.push_back(patch.args_offset);
      std::sort(offsets.begin(), offsets.end());
      EXPECT_EQ(std::adjacent_find(offsets.begin(), offsets.end()), offsets.end()) << launch.label;
    }
  }
}

TEST(FusionDecode, LeavesBatchesAndFloat32Alone) {
  for (const ModelDesc& model : {moe(), dense()}) {
    EXPECT_EQ(n_fused(lower(model, ActivationMode::kF32)), 0);
    EXPECT_EQ(n_fused(lower(model, ActivationMode::kAuto, 8)), 0);
    EXPECT_TRUE(lower(model, ActivationMode::kF32).notes.empty()) << "nothing was refused, nothing was asked for";
  }
}

TEST(FusionDecode, BiasesOfQkvTravelWithTheirMatrices) {
  ModelDesc model = dense();
  const auto bias = [](const char* name, uint64_t n) { return WeightRef{.tensor = name, .n_rows = 1, .n_cols = n, .dtype = DType::kF32}; };
  for (LayerDesc& layer : model.layers) layer.bq = bias("bq", 192), layer.bk = bias("bk", 64), layer.bv = bias("bv", 64);
  const Lowered lowered = lower(model);
  EXPECT_EQ(all_notes(lowered), "");
  const LoweredLaunch& qkv = launch_of(lowered, "blk.0.qkv");
  const std::vector<std::string> want = {"bq", "bk", "bv"};
  for (size_t m = 0; m < 3; ++m) {
    const size_t at = offsetof(DecodeGemvArgs, bias) + m * sizeof(void*);
    const auto patch = std::find_if(qkv.patches.begin(), qkv.patches.end(), [&](const ArgPatch& p) { return p.args_offset == at; });
    ASSERT_NE(patch, qkv.patches.end()) << m;
    EXPECT_EQ(lowered.weights[patch->ref.id].ref.tensor, want[m]);
  }
  model.layers[0].bk.reset();
  const Lowered partly = lower(model);
  EXPECT_TRUE(has_note(partly, "decode_attention: only some of q, k, v have a bias")) << all_notes(partly);
  EXPECT_EQ(launch_of(partly, "blk.1.qkv").spec.entry, "sj_decode_gemv") << "the other layer is fused all the same";
}

TEST(FusionDecode, RefusesNormsBehindABlock) {
  TinyModel gemma = dense_model("gemma3");
  gemma.tensors.erase("output.weight");   // tied
  const Lowered lowered = lower(describe(gemma));
  for (const char* rule : {"decode_attention", "decode_ffn"})
    EXPECT_TRUE(has_note(lowered, std::string(rule) + ": the half layer does not end in the residual sum (a norm behind the block?)")) << all_notes(lowered);
  EXPECT_TRUE(has_note(lowered, "decode_head: the layer before it is not fused")) << all_notes(lowered);
  EXPECT_EQ(n_fused(lowered), 0) << "all of it stays in float32";
}

TEST(FusionDecode, RefusesFloatWeights) {
  TinyModel tiny = dense_model();
  for (const char* suffix : {"attn_v.weight", "ffn_down.weight", "output.weight"}) set_type(tiny, suffix, DType::kF32);
  const Lowered lowered = lower(describe(tiny));
  EXPECT_TRUE(has_note(lowered, "decode_attention: decode_gemv: int8 activations go with quantised weights, found F32")) << all_notes(lowered);
  EXPECT_TRUE(has_note(lowered, "decode_ffn: decode_gemv: int8 activations go with quantised weights, found F32")) << all_notes(lowered);
  EXPECT_TRUE(has_note(lowered, "decode_head: decode_head: int8 activations go with quantised weights, found F32")) << all_notes(lowered);
  EXPECT_EQ(n_fused(lowered), 0);
}

TEST(FusionDecode, RefusesGateAndUpOfDifferentTypes) {
  TinyModel dense = dense_model();
  set_type(dense, "ffn_up.weight", DType::kQ8_0);
  EXPECT_TRUE(has_note(lower(describe(dense)), "decode_ffn: gate and up differ in type"));
  TinyModel moe = moe_model();
  set_type(moe, "ffn_up_exps.weight", DType::kQ4_K);
  EXPECT_TRUE(has_note(lower(describe(moe)), "decode_moe: gate and up differ in type"));
}

TinyModel with_quantised_router() {
  TinyModel model = moe_model();
  set_type(model, "ffn_gate_inp.weight", DType::kQ8_0);
  return model;
}

TEST(FusionDecode, AnyNumberOfExpertsIsFused) {
  for (const uint32_t n_experts : {8u, 60u, 103u, 512u}) {
    const Lowered lowered = lower(describe(moe_model(n_experts)));
    const std::vector<std::string> all = entries(lowered);
    EXPECT_EQ(std::count(all.begin(), all.end(), "sj_decode_moe_down"), 2) << n_experts << " experts\n" << all_notes(lowered);
  }
}

TEST(FusionDecode, RefusesRoutersItCannotServe) {
  const Lowered quantised = lower(describe(with_quantised_router()));
  EXPECT_TRUE(has_note(quantised, "decode_moe: the router is not a plain F32 matrix")) << all_notes(quantised);
}

TEST(FusionDecode, FusedHalvesBesideUnfusedOnesQuantiseTheirInput) {
  const Lowered lowered = lower(describe(with_quantised_router()));   // attention is fused, the experts are not
  const std::vector<std::string> all = entries(lowered);
  EXPECT_EQ(std::count(all.begin(), all.end(), "sj_decode_attention"), 2);
  EXPECT_EQ(std::count(all.begin(), all.end(), "sj_decode_router"), 0);
  EXPECT_EQ(std::count(all.begin(), all.end(), "sj_decode_input"), 2) << "before each attention half";
}

}  // namespace
}  // namespace sj::fusion_decode_test
