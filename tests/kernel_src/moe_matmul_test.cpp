#include "kernel_src/moe_matmul_spec.h"

#include "kernel_src/args/moe_matmul.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::moe_matmul_test {
namespace {

constexpr MoeMatmulParams kPlain = {.dtype = DType::kQ4_K, .n_rows = 20, .n_cols = 512, .n_experts = 16, .n_used = 4, .n_tokens = 3};

TEST(MoeMatmulSpec, CoversEveryRowSlotAndToken) {
  EXPECT_EQ(moe_matmul_spec(kPlain).launch.grid, (Dim3{3, 4, 3}));
  EXPECT_EQ(baked_int(moe_matmul_spec(kPlain), "kExpertStrideRows"), 20);
}

TEST(MoeMatmulSpec, CostCountsNoMoreMatricesThanThereAre) {
  MoeMatmulParams p = kPlain;
  const double matrix = 20.0 * double(row_record_bytes(DType::kQ4_K, 512));
  EXPECT_EQ(moe_matmul_spec(p).cost.bytes, 12 * matrix + 4.0 * 3 * 512 + 4.0 * 12 * 20);
  p.n_tokens = 100;
  EXPECT_EQ(moe_matmul_spec(p).cost.bytes, 16 * matrix + 4.0 * 100 * 512 + 4.0 * 400 * 20);
}

TEST(MoeMatmulSpec, RefusesImpossibleShapes) {
  MoeMatmulParams p = kPlain;
  p.n_used = 17;
  EXPECT_TRUE(is_refused([&] { moe_matmul_spec(p); }, "17 experts a token of 16"));
  p = kPlain;
  p.expert_stride_rows = 19;
  EXPECT_TRUE(is_refused([&] { moe_matmul_spec(p); }, "overlap at a stride of 19"));
  p = kPlain;
  p.n_cols = 100;
  EXPECT_TRUE(is_refused([&] { moe_matmul_spec(p); }, "256"));
}

class MoeMatmulCompile : public ::testing::TestWithParam<DType> {};
TEST_P(MoeMatmulCompile, FitsItsTargetsWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(compiles_everywhere(moe_matmul_spec({.dtype = GetParam(), .n_rows = 768, .n_cols = 2048, .n_experts = 128, .n_used = 8, .n_tokens = 2,
                                                   .is_x_per_slot = true, .has_bias = true, .has_result_scale = true}),
                                  targets_of(GetParam())));
}
INSTANTIATE_TEST_SUITE_P(Types, MoeMatmulCompile, ::testing::ValuesIn(all_weight_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

void check_moe_matmul(const MoeMatmulParams& p, uint32_t n_valid) {
  SCOPED_TRACE(kernel_label(moe_matmul_spec(p)));
  const uint32_t stride = p.expert_stride_rows == 0 ? p.n_rows : p.expert_stride_rows;
  const TestMatrix w = random_matrix(p.dtype, std::size_t{stride} * p.n_experts, p.n_cols, 1);
  const std::size_t n_pairs = std::size_t{p.n_tokens} * p.n_used;
  const std::vector<float> x = random_floats((p.is_x_per_slot ? n_pairs : p.n_tokens) * p.n_cols, 2);
  const std::vector<float> bias = random_floats(std::size_t{p.n_experts} * p.n_rows, 3), scales = random_floats(p.n_experts, 4);
  std::vector<int32_t> ids(n_pairs);
  for (std::size_t i = 0; i < n_pairs; ++i) ids[i] = int32_t((i * 7 + i / 3) % p.n_experts);

  KernelRunner gpu;
  const MoeMatmulArgs args = {.weight = reinterpret_cast<const uint8_t*>(gpu.upload(w.records)), .x = gpu.upload(x), .ids = gpu.upload(ids),
                              .bias = p.has_bias ? gpu.upload(bias) : nullptr, .result_scale = p.has_result_scale ? gpu.upload(scales) : nullptr,
                              .y = gpu.alloc<float>(n_pairs * p.n_rows),
                              .state = gpu.upload_value(StepState{.position = 0, .n_tokens = int32_t(n_valid), .token = 0, .step_idx = 0})};
  gpu.run(moe_matmul_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, n_pairs * p.n_rows);

  ref::Vec want, bound;
  const double n_serial = 32.0 * std::ceil(p.n_cols / 1024.0) + 5;   // a lane's chain and the shuffles
  for (std::size_t pair = 0; pair < std::size_t{n_valid} * p.n_used; ++pair) {
    const auto expert = std::size_t(ids[pair]), first = expert * stride * p.n_cols;
    TestMatrix one{.dtype = w.dtype, .n_rows = p.n_rows, .n_cols = w.n_cols, .records = {}, .values = {}, .largest = w.largest};
    one.values.assign(w.values.begin() + std::ptrdiff_t(first), w.values.begin() + std::ptrdiff_t(first + p.n_rows * w.n_cols));
    const std::size_t vector = p.is_x_per_slot ? pair : pair / p.n_used;
    const ref::Vec xs(x.begin() + std::ptrdiff_t(vector * p.n_cols), x.begin() + std::ptrdiff_t((vector + 1) * p.n_cols));
    const ref::Vec dot = ref::matmul(one.values, xs, p.n_rows, p.n_cols), dot_error = dot_bound(one, xs, n_serial);
    const double scale = p.has_result_scale ? scales[expert] : 1.0;
    for (std::size_t m = 0; m < p.n_rows; ++m) {
      const double b = p.has_bias ? bias[expert * p.n_rows + m] : 0.0;
      want.push_back(dot[m] * scale + b);
      bound.push_back(dot_error[m] * std::fabs(scale) + 2 * kRoundF32 * (std::fabs(dot[m] * scale) + std::fabs(b)));
    }
  }
  EXPECT_TRUE(is_close({y.begin(), y.begin() + std::ptrdiff_t(want.size())}, want, bound));
  for (std::size_t i = want.size(); i < y.size(); ++i) ASSERT_EQ(y[i], unwritten()) << i;
}

class MoeMatmulDevice : public ::testing::TestWithParam<DType> {};
TEST_P(MoeMatmulDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_moe_matmul({.dtype = GetParam(), .n_rows = 12, .n_cols = 256, .n_experts = 6, .n_used = 2, .n_tokens = 2}, 2);
}
INSTANTIATE_TEST_SUITE_P(Types, MoeMatmulDevice, ::testing::ValuesIn(all_weight_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(MoeMatmulDevice, TakesAVectorASlot) {
  SJ_SKIP_WITHOUT_GPU();
  check_moe_matmul({.dtype = DType::kQ8_0, .n_rows = 9, .n_cols = 96, .n_experts = 5, .n_used = 3, .n_tokens = 3, .is_x_per_slot = true}, 2);
}

TEST(MoeMatmulDevice, AddsBiasAndScaleOfTheExpert) {
  SJ_SKIP_WITHOUT_GPU();
  check_moe_matmul({.dtype = DType::kMXFP4, .n_rows = 16, .n_cols = 2880, .n_experts = 4, .n_used = 4, .has_bias = true, .has_result_scale = true}, 1);
}

TEST(MoeMatmulDevice, ReadsHalfOfAFusedGateUpTensor) {
  SJ_SKIP_WITHOUT_GPU();
  check_moe_matmul({.dtype = DType::kF16, .n_rows = 8, .n_cols = 64, .expert_stride_rows = 16, .n_experts = 3, .n_used = 2, .n_tokens = 2}, 2);
}

}  // namespace
}  // namespace sj::test::moe_matmul_test
