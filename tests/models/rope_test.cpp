#include "models/rope.h"

#include <cmath>
#include <functional>

#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "tests/reference/reference_ops.h"
#include "tests/support/tiny_model.h"

namespace sj::rope_test {
namespace {

void expect_close(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-14 * std::fabs(b[i])) << i;
}

TEST(Rope, PlainFrequenciesFallGeometrically) {
  const RopeDesc rope = make_rope(RopePairing::kHalfSplit, 64, 1e6, {}, {});
  expect_close(rope.inv_freq, ref::rope_inv_freq(64, 1e6));
  EXPECT_EQ(rope.magnitude, 1);
}

TEST(Rope, LinearScalingDividesEveryFrequency) {
  const RopeDesc rope = make_rope(RopePairing::kHalfSplit, 16, 1e4, {.kind = RopeScalingKind::kLinear, .factor = 8, .attn_factor = 0.5}, {});
  std::vector<double> expected = ref::rope_inv_freq(16, 1e4);
  for (double& f : expected) f /= 8;
  expect_close(rope.inv_freq, expected);
  EXPECT_EQ(rope.magnitude, 0.5f);
}

TEST(Rope, YarnKeepsFastPairsAndSlowsTheOthers) {
  // gpt-oss: factor 32 over 4096, 64 dims, base 150000: correction range 8..18.
  const RopeScaling yarn{.kind = RopeScalingKind::kYarn, .factor = 32, .original_ctx_tokens = 4096};
  const RopeDesc rope = make_rope(RopePairing::kHalfSplit, 64, 150000, yarn, {});
  const std::vector<double> plain = ref::rope_inv_freq(64, 150000);
  EXPECT_DOUBLE_EQ(rope.inv_freq[8], plain[8]);
  EXPECT_LT(rope.inv_freq[9], plain[9]);
  EXPECT_DOUBLE_EQ(rope.inv_freq[18], plain[18] / 32);
  EXPECT_GT(rope.inv_freq[17], plain[17] / 32);
  EXPECT_DOUBLE_EQ(rope.inv_freq[13], plain[13] * 0.5 + plain[13] / 32 * 0.5);
  expect_close(rope.inv_freq, ref::yarn_inv_freq(64, 150000, 32, 4096));
  EXPECT_FLOAT_EQ(rope.magnitude, 1.3465736f);
}

TEST(Rope, DivisorsStretchSinglePairs) {
  const RopeDesc rope = make_rope(RopePairing::kInterleaved, 8, 1e4, {}, std::vector<double>{1, 2, 4, 1e30});
  expect_close(rope.inv_freq, {1, 0.05, 0.0025, 1e-33});
}

RopeDesc rope_of(const test::TinyModel& model) {
  const test::TempDir dir;
  return describe_model(open_gguf(dir.write("m.gguf", model.bytes()))).layers[0].attention.rope;
}

TEST(RopeKeys, DefaultsMeanNoScaling) {
  test::TinyModel m = test::tiny_model("qwen3");
  m.keys.erase("qwen3.rope.freq_base");
  expect_close(rope_of(m).inv_freq, ref::rope_inv_freq(8, 10000));
  EXPECT_EQ(rope_of(m).pairing, RopePairing::kHalfSplit);
}

TEST(RopeKeys, AFactorWithoutATypeIsLinear) {
  test::TinyModel m = test::tiny_model("qwen3");
  m.key("rope.scaling.factor") = 4.0f;
  EXPECT_DOUBLE_EQ(rope_of(m).inv_freq[0], 0.25);
  m.key("rope.scaling.type") = std::string("none");
  EXPECT_DOUBLE_EQ(rope_of(m).inv_freq[0], 1);
  m = test::tiny_model("qwen3");
  m.key("rope.scale_linear") = 2.0f;
  EXPECT_DOUBLE_EQ(rope_of(m).inv_freq[0], 0.5);
}

TEST(RopeKeys, YarnReadsTheOriginalContext) {
  test::TinyModel m = test::tiny_model("qwen3");
  m.key("rope.scaling.type") = std::string("yarn");
  m.key("rope.scaling.factor") = 4.0f;
  expect_close(rope_of(m).inv_freq, ref::yarn_inv_freq(8, 10000, 4, 64));   // the trained context by default
  m.key("rope.scaling.original_context_length") = 1000u;
  m.key("rope.scaling.attn_factor") = 2.0f;
  expect_close(rope_of(m).inv_freq, ref::yarn_inv_freq(8, 10000, 4, 1000));
  EXPECT_FLOAT_EQ(rope_of(m).magnitude, float(2 * (1 + 0.1 * std::log(4.0))));
}

TEST(RopeKeys, OtherYarnConstantsAreRefused) {
  test::TinyModel m = test::tiny_model("qwen3");
  m.key("rope.scaling.type") = std::string("yarn");
  m.key("rope.scaling.factor") = 4.0f;
  m.key("rope.scaling.yarn_beta_fast") = 32.0f;
  EXPECT_NO_THROW(rope_of(m));
  m.key("rope.scaling.yarn_beta_fast") = 16.0f;
  try {
    rope_of(m);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(error.message().find("yarn_beta_fast: only 32 is supported, found 16"), std::string::npos) << error.what();
  }
}

TEST(RopeKeys, LlamaTakesDivisorsFromATensor) {
  test::TinyModel m = test::tiny_model("llama");
  m.add("rope_freqs.weight", {4}, 1);
  m.tensors["rope_freqs.weight"].values = {1, 1, 2, 8};
  expect_close(rope_of(m).inv_freq, {1, 0.1, 0.005, 0.000125});
  EXPECT_EQ(rope_of(m).pairing, RopePairing::kInterleaved);
  m.tensors["rope_freqs.weight"].values[2] = 0;
  EXPECT_THROW(rope_of(m), Error);
}

}  // namespace
}  // namespace sj::rope_test
