#include "kernel_src/matmul_spec.h"

#include "kernel_src/args/matmul.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::matmul_test {
namespace {

constexpr MatmulParams kPlain = {.dtype = DType::kQ4_K, .n_rows = 100, .n_cols = 512};

TEST(MatmulSpec, PicksGemvForFewTokensAndGemmForMany) {
  MatmulParams p = kPlain;
  EXPECT_EQ(matmul_spec(p).source, "gemv.cu");
  p.n_tokens = kMaxGemvTokens;
  EXPECT_EQ(matmul_spec(p).entry, "sj_gemv");
  p.n_tokens = kMaxGemvTokens + 1;
  EXPECT_EQ(matmul_spec(p).source, "gemm.cu");
  p.n_tokens = 1;
  p.algorithm = MatmulAlgorithm::kGemm;
  EXPECT_EQ(matmul_spec(p).entry, "sj_gemm");
}

TEST(MatmulSpec, CoversEveryRowAndToken) {
  MatmulParams p = kPlain;
  EXPECT_EQ(matmul_spec(p).launch.grid, (Dim3{13, 1, 1}));   // 8 rows a block
  p.n_tokens = 65;
  EXPECT_EQ(matmul_spec(p).launch.grid, (Dim3{2, 2, 1}));    // tiles of 64 x 64
}

TEST(MatmulSpec, CostCountsWeightsOnce) {
  MatmulParams p = kPlain;
  const double weights = 100.0 * double(row_record_bytes(DType::kQ4_K, 512));
  EXPECT_EQ(matmul_spec(p).cost.bytes, weights + 4 * 512 + 4 * 100);
  EXPECT_EQ(matmul_spec(p).cost.flops, 2.0 * 100 * 512);
  p.n_tokens = 64;
  p.has_residual = p.has_bias = true;
  EXPECT_EQ(matmul_spec(p).cost.bytes, weights + 64 * 4 * (512 + 200) + 400);
}

TEST(MatmulSpec, RefusesImpossibleShapes) {
  MatmulParams p = kPlain;
  p.n_rows = 0;
  EXPECT_TRUE(is_refused([&] { matmul_spec(p); }, "matmul: no rows"));
  p = kPlain;
  p.n_cols = 500;
  EXPECT_TRUE(is_refused([&] { matmul_spec(p); }, "256"));
  p = kPlain;
  p.n_tokens = 0;
  EXPECT_TRUE(is_refused([&] { matmul_spec(p); }, "found 0"));
  p.n_tokens = 9;
  p.algorithm = MatmulAlgorithm::kGemv;
  EXPECT_TRUE(is_refused([&] { matmul_spec(p); }, "gemv takes up to 8 tokens, found 9"));
}

class MatmulCompile : public ::testing::TestWithParam<DType> {};

TEST_P(MatmulCompile, FitsItsTargetsWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  for (const uint32_t n_tokens : {1u, kMaxGemvTokens, 128u}) {
    if (n_tokens == kMaxGemvTokens && !is_sample_type(GetParam())) continue;
    const MatmulParams p = {.dtype = GetParam(), .n_rows = 2050, .n_cols = 2048, .n_tokens = n_tokens, .has_bias = true, .has_result_scale = true, .has_residual = true};
    EXPECT_TRUE(compiles_everywhere(matmul_spec(p), targets_of(GetParam())));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, MatmulCompile, ::testing::ValuesIn(all_weight_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

/// Additions between a product and the result: a lane's chain and 5 shuffles, or all columns.
double n_serial_adds(const MatmulParams& p) {
  const bool is_gemv = matmul_spec(p).entry == "sj_gemv";
  return is_gemv ? 32.0 * std::ceil(p.n_cols / 1024.0) + 5 : p.n_cols;
}

/// Runs one product with `n_valid` valid tokens and checks every element; rows of tokens past them must stay unwritten.
void check_matmul(const MatmulParams& p, uint32_t n_valid) {
  SCOPED_TRACE(kernel_label(matmul_spec(p)));
  const TestMatrix w = random_matrix(p.dtype, p.n_rows, p.n_cols, 1);
  const std::vector<float> x = random_floats(std::size_t{p.n_tokens} * p.n_cols, 2);
  const std::vector<float> bias = random_floats(p.n_rows, 3), residual = random_floats(std::size_t{p.n_tokens} * p.n_rows, 4);
  const float result_scale = 0.75f;

  KernelRunner gpu;
  const MatmulArgs args = {.weight = reinterpret_cast<const uint8_t*>(gpu.upload(w.records)), .x = gpu.upload(x),
                           .bias = p.has_bias ? gpu.upload(bias) : nullptr,
                           .result_scale = p.has_result_scale ? gpu.upload_value(result_scale) : nullptr,
                           .residual = p.has_residual ? gpu.upload(residual) : nullptr,
                           .y = gpu.alloc<float>(std::size_t{p.n_tokens} * p.n_rows),
                           .state = gpu.upload_value(StepState{.position = 0, .n_tokens = int32_t(n_valid), .token = 0, .step_idx = 0})};
  gpu.run(matmul_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, std::size_t{p.n_tokens} * p.n_rows);

  const std::size_t n_valid_values = std::size_t{n_valid} * p.n_rows;
  const ref::Vec x_valid(x.begin(), x.begin() + std::ptrdiff_t(std::size_t{n_valid} * p.n_cols));
  ref::Vec want = ref::matmul(w.values, x_valid, p.n_rows, p.n_cols), bound = dot_bound(w, x_valid, n_serial_adds(p));
  for (std::size_t i = 0; i < want.size(); ++i) {
    const std::size_t row = i % p.n_rows;
    want[i] = want[i] * (p.has_result_scale ? result_scale : 1.0) + (p.has_bias ? bias[row] : 0) + (p.has_residual ? residual[i] : 0);
    bound[i] += 3 * kRoundF32 * (std::fabs(want[i]) + std::fabs(bias[row]) + std::fabs(residual[i]));
  }
  EXPECT_TRUE(is_close({y.begin(), y.begin() + std::ptrdiff_t(n_valid_values)}, want, bound));
  for (std::size_t i = n_valid_values; i < y.size(); ++i) ASSERT_EQ(y[i], unwritten()) << "token past the valid ones, element " << i;
}

class MatmulDevice : public ::testing::TestWithParam<DType> {};

TEST_P(MatmulDevice, GemvMatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_matmul({.dtype = GetParam(), .n_rows = 37, .n_cols = 512}, 1);
  check_matmul({.dtype = GetParam(), .n_rows = 19, .n_cols = 1536, .n_tokens = 3, .has_bias = true, .has_residual = true}, 2);
}

TEST_P(MatmulDevice, GemmMatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_matmul({.dtype = GetParam(), .n_rows = 70, .n_cols = 256, .n_tokens = 70}, 67);
}

INSTANTIATE_TEST_SUITE_P(Types, MatmulDevice, ::testing::ValuesIn(all_weight_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(MatmulDevice, TakesRowsThatEndInsideAChunk) {
  SJ_SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    check_matmul({.dtype = dtype, .n_rows = 9, .n_cols = 100}, 1);
    check_matmul({.dtype = dtype, .n_rows = 9, .n_cols = 4}, 1);
    check_matmul({.dtype = dtype, .n_rows = 9, .n_cols = 100, .n_tokens = 10}, 10);
  }
}

TEST(MatmulDevice, AddsScaleBiasAndResidual) {
  SJ_SKIP_WITHOUT_GPU();
  for (const uint32_t n_tokens : {1u, 8u, 20u})
    check_matmul({.dtype = DType::kQ5_0, .n_rows = 24, .n_cols = 576, .n_tokens = n_tokens, .has_bias = true, .has_result_scale = true, .has_residual = true},
                 n_tokens);
}

TEST(MatmulDevice, ComputesNothingWithoutValidTokens) {
  SJ_SKIP_WITHOUT_GPU();
  check_matmul({.dtype = DType::kQ8_0, .n_rows = 16, .n_cols = 64, .n_tokens = 4}, 0);
  check_matmul({.dtype = DType::kQ8_0, .n_rows = 16, .n_cols = 64, .n_tokens = 16}, 0);
}

TEST(MatmulDevice, AddsToTheResidualInPlace) {
  SJ_SKIP_WITHOUT_GPU();
  const MatmulParams p = {.dtype = DType::kF32, .n_rows = 8, .n_cols = 32, .has_residual = true};
  const TestMatrix w = random_matrix(p.dtype, p.n_rows, p.n_cols, 5);
  const std::vector<float> x = random_floats(p.n_cols, 6), residual = random_floats(p.n_rows, 7);
  KernelRunner gpu;
  float* y = gpu.upload(residual);
  gpu.run(matmul_spec(p), MatmulArgs{.weight = reinterpret_cast<const uint8_t*>(gpu.upload(w.records)), .x = gpu.upload(x), .bias = nullptr,
                                     .result_scale = nullptr, .residual = y, .y = y, .state = nullptr});
  const ref::Vec want = ref::add(ref::matmul(w.values, ref::to_f64(x), p.n_rows, p.n_cols), ref::to_f64(residual));
  EXPECT_TRUE(is_close(gpu.download(y, p.n_rows), want, 1e-6, 1e-6));   // about 40 roundings of values below 1
}

}  // namespace
}  // namespace sj::test::matmul_test
