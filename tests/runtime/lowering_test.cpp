// Lowering: which launches an op becomes, which buffers they name, and that fused and unfused steps name the same ones.
#include "runtime/lowering.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "kernel_src/args/embed.h"
#include "kernel_src/args/matmul.h"
#include "kernel_src/args/step_state.h"
#include "runtime/kv_cache.h"
#include "small_models.h"

namespace sj::lowering_test {
namespace {

using test::small_device;
using test::small_graph;
using test::small_model;

std::vector<std::string> entries(const Lowered& lowered) {
  std::vector<std::string> names;
  for (const LoweredLaunch& launch : lowered.launches) names.push_back(launch.spec.entry.substr(3));
  return names;
}

Lowered lower(const ModelDesc& model, const OpGraph& graph, std::span<const FusionRule> rules = {}) {
  const DeviceInfo device = small_device();
  return lower_graph(graph, model, device, {}, rules);
}

const ArgPatch* find_patch(const LoweredLaunch& launch, size_t offset) {
  for (const ArgPatch& patch : launch.patches)
    if (patch.args_offset == offset) return &patch;
  return nullptr;
}

const LoweredLaunch& launch_of(const Lowered& lowered, const std::string& label) {
  for (const LoweredLaunch& launch : lowered.launches)
    if (launch.label == label) return launch;
  throw Error(ErrorKind::kInternal, "no launch " + label);
}

TEST(Lowering, DenseLayerIsOneLaunchAnOp) {
  const ModelDesc model = small_model({.n_layers = 1});
  const Lowered lowered = lower(model, small_graph(model));
  EXPECT_EQ(entries(lowered),
            (std::vector<std::string>{"embed", "rmsnorm", "gemv", "gemv", "gemv", "rope", "rope", "kv_append", "attention", "gemv",
                                      "add", "rmsnorm", "gemv", "gemv", "glu", "gemv", "add", "rmsnorm", "gemv", "argmax"}));
}

TEST(Lowering, MoeLayerRoutesAndCombines) {
  const ModelDesc model = small_model({.n_layers = 1, .is_moe = true});
  const Lowered lowered = lower(model, small_graph(model));
  const std::vector<std::string> names = entries(lowered);
  const std::vector<std::string> ffn(names.begin() + 11, names.begin() + 19);
  EXPECT_EQ(ffn, (std::vector<std::string>{"rmsnorm", "gemv", "route", "moe_matmul", "moe_matmul", "glu", "moe_matmul", "moe_combine"}));
}

TEST(Lowering, BatchKeepsLastRowAndUsesGemm) {
  const ModelDesc model = small_model({.n_layers = 1});
  const std::vector<std::string> names = entries(lower(model, small_graph(model, 32)));
  EXPECT_EQ(std::count(names.begin(), names.end(), "gemm"), 7);
  EXPECT_EQ(names[names.size() - 4], "select_rows");
  EXPECT_EQ(names[names.size() - 2], "gemv") << "the head sees one row";
  EXPECT_EQ(names.back(), "argmax");
}

TEST(Lowering, AllLogitsDoesNotSample) {
  const ModelDesc model = small_model({.n_layers = 1, .softcap = 30});
  const Lowered lowered = lower(model, small_graph(model, 32, true));
  EXPECT_TRUE(lowered.all_logits);
  EXPECT_EQ(entries(lowered).back(), "softcap");
  const auto logits = std::find_if(lowered.states.begin(), lowered.states.end(), [](const StateBuffer& s) { return s.key == "logits"; });
  ASSERT_NE(logits, lowered.states.end());
  EXPECT_EQ(logits->n_bytes, 32u * 128 * 4);
}

TEST(Lowering, DecodeTakesTokenFromStateAndBatchFromList) {
  const ModelDesc model = small_model({.n_layers = 1});
  const Lowered decode = lower(model, small_graph(model)), batch = lower(model, small_graph(model, 8));
  EXPECT_EQ(find_patch(decode.launches[0], offsetof(EmbedArgs, tokens)), nullptr);
  const ArgPatch* tokens = find_patch(batch.launches[0], offsetof(EmbedArgs, tokens));
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(batch.states[tokens->ref.id].key, "tokens");
  EXPECT_EQ(batch.states[tokens->ref.id].n_bytes, 8u * 4);
}

TEST(Lowering, OptionalInputsArePatchedOnlyWhenPresent) {
  const ModelDesc with = small_model({.n_layers = 1, .has_bias = true}), without = small_model({.n_layers = 1});
  const Lowered a = lower(with, small_graph(with)), b = lower(without, small_graph(without));
  const ArgPatch* bias = find_patch(launch_of(a, "blk.0.attn_q"), offsetof(MatmulArgs, bias));
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(a.weights[bias->ref.id].ref.tensor, "blk.0.attn_q.bias");
  EXPECT_EQ(a.weights[bias->ref.id].form, WeightForm::kF32);
  EXPECT_EQ(find_patch(launch_of(b, "blk.0.attn_q"), offsetof(MatmulArgs, bias)), nullptr);
}

TEST(Lowering, EveryPatchLiesInTheArgumentsAndNamesAKnownBuffer) {
  for (const bool is_moe : {false, true})
    for (const uint32_t n_tokens : {1u, 16u}) {
      const ModelDesc model = small_model({.is_moe = is_moe, .has_qk_norm = true, .has_post_norm = true, .has_bias = true});
      const Lowered lowered = lower(model, small_graph(model, n_tokens), fusion_rules());
      for (const LoweredLaunch& launch : lowered.launches) {
        std::vector<size_t> offsets;
        for (const ArgPatch& patch : launch.patches) {
          EXPECT_LE(patch.args_offset + sizeof(void*), launch.args.size()) << launch.label;
          EXPECT_EQ(patch.args_offset % sizeof(void*), 0u) << launch.label;
          offsets.push_back(patch.args_offset);
          const size_t n = patch.ref.kind == BufferKind::kWeight  ? lowered.weights.size()
                           : patch.ref.kind == BufferKind::kValue ? lowered.values.size()
                                                                  : lowered.states.size();
          EXPECT_LT(patch.ref.id, n) << launch.label;
        }
        std::sort(offsets.begin(), offsets.end());
        EXPECT_EQ(std::adjacent_find(offsets.begin(), offsets.end()), offsets.end()) << launch.label << " patches a pointer twice";
      }
    }
}

TEST(Lowering, TiedHeadAndEmbeddingAreOneWeight) {
  const ModelDesc model = small_model();
  const Lowered lowered = lower(model, small_graph(model));
  const auto is_table = [](const WeightUse& use) { return use.ref.tensor == "token_embd.weight"; };
  EXPECT_EQ(std::count_if(lowered.weights.begin(), lowered.weights.end(), is_table), 1);
}

TEST(Lowering, EqualRopesShareOneTable) {
  const ModelDesc model = small_model();
  const Lowered lowered = lower(model, small_graph(model));
  const auto is_rope = [](const StateBuffer& state) { return state.key.starts_with("rope."); };
  EXPECT_EQ(std::count_if(lowered.states.begin(), lowered.states.end(), is_rope), 1);
}

TEST(Lowering, LaunchesKnowTheirLayer) {
  const ModelDesc model = small_model();
  const Lowered lowered = lower(model, small_graph(model), fusion_rules());
  EXPECT_EQ(lowered.launches.front().layer, -1);
  EXPECT_EQ(lowered.launches.back().layer, -1);
  EXPECT_EQ(launch_of(lowered, "blk.1.attention").layer, 1);
}

TEST(Lowering, AttentionCostGrowsWithKeysUpToItsWindow) {
  ModelDesc model = small_model({.n_layers = 1});
  model.layers[0].attention.window_tokens = 50;
  const Lowered lowered = lower(model, small_graph(model));
  const LoweredLaunch& attention = launch_of(lowered, "blk.0.attention");
  const double kv_bytes = 2.0 * 2 * 2 * 16;   // K and V, f16, 2 heads of 16
  EXPECT_DOUBLE_EQ(attention.cost(11).bytes - attention.cost(10).bytes, kv_bytes);
  EXPECT_DOUBLE_EQ(attention.cost(50).bytes, attention.cost(500).bytes);
}

TEST(Lowering, UnsupportedOpNamesItselfAndTheRule) {
  ModelDesc model = small_model({.n_layers = 1});
  model.layers[0].attention.head_dim = 12;   // attention wants multiples of 8
  model.layers[0].attention.rope.n_rot = 12;
  model.layers[0].attention.rope.inv_freq.resize(6);
  model.layers[0].wq.n_rows = 48;
  model.layers[0].wk.n_rows = model.layers[0].wv.n_rows = 24;
  try {
    lower(model, small_graph(model));
    FAIL() << "head_dim 12 was lowered";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(error.where().find("op blk.0."), std::string::npos) << error.what();
  }
}

TEST(Lowering, RuleThatEmitsWithoutMatchIsOurMistake) {
  const ModelDesc model = small_model({.n_layers = 1});
  const std::vector<FusionRule> rules = {{"broken", [](LoweringContext& ctx, size_t i) { lower_one_op(ctx, i); return size_t{0}; }}};
  EXPECT_THROW(lower(model, small_graph(model), rules), Error);
}

TEST(Lowering, RefusalsAreNotedOnce) {
  const ModelDesc model = small_model();
  const std::vector<FusionRule> rules = {{"picky", [](LoweringContext& ctx, size_t) { return ctx.refuse("picky", "not today"); }}};
  const Lowered lowered = lower(model, small_graph(model), rules);
  EXPECT_EQ(lowered.notes, std::vector<std::string>{"picky: not today"});
}

TEST(FusionRules, ResidualSumsDisappear) {
  for (const bool is_moe : {false, true})
    for (const bool has_post_norm : {false, true}) {
      const ModelDesc model = small_model({.is_moe = is_moe, .has_post_norm = has_post_norm});
      const std::vector<std::string> names = entries(lower(model, small_graph(model), fusion_rules()));
      EXPECT_EQ(std::count(names.begin(), names.end(), "add"), 0) << is_moe << has_post_norm;
    }
}

TEST(FusionRules, FusedAndUnfusedStepsReadTheSameWeights) {
  const ModelDesc model = small_model({.has_qk_norm = true, .has_bias = true});
  const Lowered fused = lower(model, small_graph(model), fusion_rules()), plain = lower(model, small_graph(model));
  const auto names = [](const Lowered& lowered) {
    std::vector<std::string> tensors;
    for (const WeightUse& use : lowered.weights) tensors.push_back(use.ref.tensor);
    std::sort(tensors.begin(), tensors.end());
    return tensors;
  };
  EXPECT_EQ(names(fused), names(plain));
  EXPECT_LT(fused.launches.size(), plain.launches.size());
}

TEST(FusionRules, SumOfAValueThatOthersReadStays) {
  const ModelDesc model = small_model({.n_layers = 1});
  OpGraph graph = small_graph(model);
  // A second reader of attn_output's result: fusing would leave it without its value.
  const auto matmul = std::find_if(graph.ops.begin(), graph.ops.end(), [](const Op& op) { return op.name == "blk.0.attn_output"; });
  ASSERT_NE(matmul, graph.ops.end());
  const ValueId y = matmul->outputs[0];
  graph.values.push_back({.name = "extra", .shape = graph.values[y].shape});
  graph.ops.push_back({"extra", AddOp{}, {y, y}, {static_cast<ValueId>(graph.values.size() - 1)}});
  const std::vector<std::string> names = entries(lower(model, graph, fusion_rules()));
  EXPECT_EQ(std::count(names.begin(), names.end(), "add"), 2);
}

TEST(MakeLaunch, RefusesPatchOutsideOfArguments) {
  EXPECT_THROW(make_launch({.entry = "sj_embed"}, EmbedArgs{}, {{sizeof(EmbedArgs), {}}}), Error);
  EXPECT_THROW(make_launch({.entry = "sj_embed"}, EmbedArgs{}, {{4, {}}}), Error);
}

TEST(KvCache, PagesHoldTheContext) {
  EXPECT_EQ(n_kv_pages(1), 1u);
  EXPECT_EQ(n_kv_pages(64), 1u);
  EXPECT_EQ(n_kv_pages(65), 2u);
  EXPECT_EQ(n_kv_pages(0xFFFFFFFFu), 1u << 26);
  const ModelDesc model = small_model({.n_layers = 3});
  EXPECT_EQ(kv_cache_bytes(model, 65, KvType::kF16), 3u * 2 * 2 * 64 * 2 * 16 * 2);   // layers, K and V, pages, tokens, heads, dim, f16
}

}  // namespace
}  // namespace sj::lowering_test
