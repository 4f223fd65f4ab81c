#include "kernel_src/embed_spec.h"

#include "kernel_src/args/embed.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::embed_test {
namespace {

TEST(EmbedSpec, OneBlockAToken) {
  const KernelSpec spec = embed_spec({.dtype = DType::kQ8_0, .n_vocab = 10, .n_cols = 576, .n_tokens = 7});
  EXPECT_EQ(spec.launch.grid, (Dim3{7, 1, 1}));
  EXPECT_EQ(spec.launch.block, (Dim3{32, 1, 1}));   // 18 chunks
  EXPECT_EQ(spec.cost.bytes, 7.0 * (double(row_record_bytes(DType::kQ8_0, 576)) + 4 * 576));
}

TEST(EmbedSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { embed_spec({.dtype = DType::kF32, .n_vocab = 0, .n_cols = 64}); }, "vocabulary is empty"));
  EXPECT_TRUE(is_refused([] { embed_spec({.dtype = DType::kQ4_K, .n_vocab = 8, .n_cols = 64}); }, "256"));
  EXPECT_TRUE(is_refused([] { embed_spec({.dtype = DType::kF32, .n_vocab = 8, .n_cols = 64, .n_tokens = 2, .is_token_from_state = true}); },
                         "the state holds one token, not 2"));
}

class EmbedCompile : public ::testing::TestWithParam<DType> {};
TEST_P(EmbedCompile, FitsItsTargetsWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(compiles_everywhere(embed_spec({.dtype = GetParam(), .n_vocab = 32000, .n_cols = 2048, .n_tokens = 5, .scale = 2}), targets_of(GetParam())));
}
INSTANTIATE_TEST_SUITE_P(Types, EmbedCompile, ::testing::ValuesIn(all_weight_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(EmbedCompile, TokenFromStateFitsEveryTarget) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(compiles_everywhere(embed_spec({.dtype = DType::kQ6_K, .n_vocab = 32000, .n_cols = 2048, .is_token_from_state = true})));
}

class EmbedDevice : public ::testing::TestWithParam<DType> {};

/// Every weight type goes through here, so this is also the test of dequant_chunk.
TEST_P(EmbedDevice, RowsAreTheDequantisedWeights) {
  SJ_SKIP_WITHOUT_GPU();
  const EmbedParams p = {.dtype = GetParam(), .n_vocab = 11, .n_cols = 768, .n_tokens = 5, .scale = 4};
  const TestMatrix table = random_matrix(p.dtype, p.n_vocab, p.n_cols, 1);
  const std::vector<int32_t> tokens = {10, 0, 3, 3, 7};
  KernelRunner gpu;
  const EmbedArgs args = {.table = reinterpret_cast<const uint8_t*>(gpu.upload(table.records)), .tokens = gpu.upload(tokens),
                          .y = gpu.alloc<float>(p.n_tokens * p.n_cols),
                          .state = gpu.upload_value(StepState{.position = 0, .n_tokens = 4, .token = 0, .step_idx = 0})};
  gpu.run(embed_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, p.n_tokens * p.n_cols);
  ref::Vec want;
  for (int t = 0; t < 4; ++t)
    for (uint32_t i = 0; i < p.n_cols; ++i) want.push_back(4 * table.values[std::size_t(tokens[t]) * p.n_cols + i]);
  // d * q + m rounded once instead of twice: each term is at most twice the largest weight. The scale is a power of two.
  EXPECT_TRUE(is_close({y.begin(), y.begin() + 4 * p.n_cols}, want, ref::Vec(want.size(), 4 * 2 * 2 * table.largest * kRoundF32)));
  EXPECT_EQ(y[4 * p.n_cols], unwritten()) << "the fifth token is not valid";
}
INSTANTIATE_TEST_SUITE_P(Types, EmbedDevice, ::testing::ValuesIn(all_weight_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(EmbedDevice, TakesTheTokenFromTheState) {
  SJ_SKIP_WITHOUT_GPU();
  const EmbedParams p = {.dtype = DType::kF32, .n_vocab = 6, .n_cols = 20, .is_token_from_state = true};
  const TestMatrix table = random_matrix(p.dtype, p.n_vocab, p.n_cols, 2);
  KernelRunner gpu;
  const EmbedArgs args = {.table = reinterpret_cast<const uint8_t*>(gpu.upload(table.records)), .tokens = nullptr, .y = gpu.alloc<float>(p.n_cols),
                          .state = gpu.upload_value(StepState{.position = 9, .n_tokens = 1, .token = 5, .step_idx = 3})};
  gpu.run(embed_spec(p), args);
  EXPECT_TRUE(is_close(gpu.download(args.y, p.n_cols), {table.values.begin() + 5 * 20, table.values.end()}, 0, 0));
}

TEST(EmbedDevice, UnknownTokensGiveNaN) {
  SJ_SKIP_WITHOUT_GPU();
  const EmbedParams p = {.dtype = DType::kQ8_0, .n_vocab = 4, .n_cols = 32, .n_tokens = 3};
  const TestMatrix table = random_matrix(p.dtype, p.n_vocab, p.n_cols, 3);
  KernelRunner gpu;
  const EmbedArgs args = {.table = reinterpret_cast<const uint8_t*>(gpu.upload(table.records)), .tokens = gpu.upload(std::vector<int32_t>{4, -1, 3}),
                          .y = gpu.alloc<float>(96), .state = gpu.upload_value(StepState{.position = 0, .n_tokens = 3, .token = 0, .step_idx = 0})};
  gpu.run(embed_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, 96);
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(std::isnan(y[std::size_t(i)])) << i;
  for (int i = 64; i < 96; ++i) ASSERT_EQ(y[std::size_t(i)], table.values[std::size_t(i) + 32]) << i;
}

}  // namespace
}  // namespace sj::test::embed_test
