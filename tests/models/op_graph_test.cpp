#include "models/op_graph.h"

#include <algorithm>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace sj::op_graph_test {
namespace {

ModelDesc describe(const test::TinyModel& model) {
  const test::TempDir dir;
  return describe_model(open_gguf(dir.write("m.gguf", model.bytes())));
}

class EveryGraph : public testing::TestWithParam<const char*> {};

TEST_P(EveryGraph, ProducesEachValueOnceAndBeforeItsReaders) {
  for (const GraphOptions options : {GraphOptions{1, 64, false}, GraphOptions{5, 64, false}, GraphOptions{5, 64, true}}) {
    const OpGraph graph = build_graph(describe(test::tiny_model(GetParam())), options);
    std::set<ValueId> ready;
    std::set<std::string> names;
    for (const Op& op : graph.ops) {
      EXPECT_TRUE(names.insert(op.name).second) << op.name << " occurs twice";
      for (ValueId id : op.inputs) EXPECT_TRUE(ready.contains(id)) << op.name;
      for (ValueId id : op.outputs) EXPECT_TRUE(ready.insert(id).second) << op.name;
    }
    EXPECT_EQ(ready.size(), graph.values.size());
    const uint64_t n_rows = options.all_logits ? 5 : 1;
    EXPECT_EQ(graph.values[graph.logits].shape, (std::vector<uint64_t>{n_rows, 40}));
  }
}

TEST_P(EveryGraph, AppendsKeysBeforeAttendingInEachLayer) {
  const OpGraph graph = build_graph(describe(test::tiny_model(GetParam())), {1, 64, false});
  std::vector<uint32_t> appended, attended;
  for (const Op& op : graph.ops) {
    if (const auto* kv = std::get_if<KvAppendOp>(&op.params)) appended.push_back(kv->layer_idx);
    if (const auto* a = std::get_if<AttentionOp>(&op.params)) {
      attended.push_back(a->layer_idx);
      EXPECT_EQ(appended, attended);
    }
  }
  EXPECT_EQ(attended, (std::vector<uint32_t>{0, 1, 2}));
}

INSTANTIATE_TEST_SUITE_P(All, EveryGraph, testing::Values("llama", "qwen2", "qwen3", "qwen3moe", "gemma3"));

TEST(OpGraph, DumpIsOneLineAnOp) {
  const OpGraph graph = build_graph(describe(test::tiny_model("llama", {.n_layers = 1})), {2, 64, false});
  EXPECT_EQ(dump(graph), R"(step of 2 tokens, context 64, logits of the last token: 20 ops, 19 values
embed                    %0:f32[2,32] = embed(token_embd.weight F32, scale 1)
blk.0.attn_norm          %1:f32[2,32] = rms_norm(blk.0.attn_norm.weight F32, eps 1e-05) %0
blk.0.attn_q             %2:f32[2,4,8] = matmul(blk.0.attn_q.weight F32) %1
blk.0.attn_k             %3:f32[2,2,8] = matmul(blk.0.attn_k.weight F32) %1
blk.0.attn_v             %4:f32[2,2,8] = matmul(blk.0.attn_v.weight F32) %1
blk.0.rope_q             %5:f32[2,4,8] = rope(interleaved, 8 dims, inv_freq 1..0.001, magnitude 1) %2
blk.0.rope_k             %6:f32[2,2,8] = rope(interleaved, 8 dims, inv_freq 1..0.001, magnitude 1) %3
blk.0.kv_append          kv_append(layer 0) %6 %4
blk.0.attention          %7:f32[2,32] = attention(layer 0, heads 4/2 of 8, scale 0.353553, window 0) %5
blk.0.attn_output        %8:f32[2,32] = matmul(blk.0.attn_output.weight F32) %7
blk.0.attn_residual      %9:f32[2,32] = add %0 %8
blk.0.ffn_norm           %10:f32[2,32] = rms_norm(blk.0.ffn_norm.weight F32, eps 1e-05) %9
blk.0.ffn_gate           %11:f32[2,48] = matmul(blk.0.ffn_gate.weight F32) %10
blk.0.ffn_up             %12:f32[2,48] = matmul(blk.0.ffn_up.weight F32) %10
blk.0.ffn_act            %13:f32[2,48] = glu(silu) %11 %12
blk.0.ffn_down           %14:f32[2,32] = matmul(blk.0.ffn_down.weight F32) %13
blk.0.ffn_residual       %15:f32[2,32] = add %9 %14
select_rows              %16:f32[1,32] = select_rows(last) %15
output_norm              %17:f32[1,32] = rms_norm(output_norm.weight F32, eps 1e-05) %16
output                   %18:f32[1,40] = matmul(output.weight F32) %17
)");
}

TEST(OpGraph, CarriesBiasesScalesExpertsAndSoftcap) {
  test::TinyModel m = test::tiny_model("qwen3moe", {.n_layers = 1, .n_experts = 4, .n_used = 2});
  m.add("blk.0.ffn_down_exps.scale", {4}, 1);
  const std::string moe = dump(build_graph(describe(m), {1, 64, false}));
  EXPECT_NE(moe.find("%14:i32[1,2], %15:f32[1,2] = route(2 of 4) %13"), std::string::npos) << moe;
  EXPECT_NE(moe.find("moe_matmul(blk.0.ffn_down_exps.weight F32 * blk.0.ffn_down_exps.scale)"), std::string::npos) << moe;
  EXPECT_NE(moe.find("= moe_combine"), std::string::npos);
  EXPECT_EQ(moe.find("select_rows"), std::string::npos) << "one token needs no selection";
  test::TinyModel g = test::tiny_model("gemma3", {.n_layers = 1});
  g.key("final_logit_softcapping") = 30.0f;
  const std::string gemma = dump(build_graph(describe(g), {1, 64, false}));
  EXPECT_NE(gemma.find("= softcap(30)"), std::string::npos) << gemma;
  EXPECT_NE(gemma.find("blk.0.attn_post_norm"), std::string::npos) << gemma;
  EXPECT_NE(gemma.find("scale 5.65685)"), std::string::npos) << gemma;
}

}  // namespace
}  // namespace sj::op_graph_test
