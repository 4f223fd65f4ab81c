#include "kernel_src/rmsnorm_spec.h"

#include "kernel_src/args/rmsnorm.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::rmsnorm_test {
namespace {

TEST(RmsNormSpec, ShortRowsTakeAWarpAndLongOnesABlock) {
  const KernelSpec heads = rmsnorm_spec({.dim = 128, .rows_per_token = 32, .n_tokens = 3, .eps = 1e-6f});
  EXPECT_EQ(heads.launch.grid, (Dim3{24, 1, 1}));
  EXPECT_EQ(heads.launch.block, (Dim3{128, 1, 1}));
  const KernelSpec rows = rmsnorm_spec({.dim = 2048, .n_tokens = 3, .eps = 1e-6f});
  EXPECT_EQ(rows.launch.grid, (Dim3{3, 1, 1}));
  EXPECT_EQ(rows.launch.block, (Dim3{512, 1, 1}));
}

TEST(RmsNormSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { rmsnorm_spec({.dim = 0}); }, "dim 0 is not a positive multiple of 4"));
  EXPECT_TRUE(is_refused([] { rmsnorm_spec({.dim = 30}); }, "dim 30"));
  EXPECT_TRUE(is_refused([] { rmsnorm_spec({.dim = 16388}); }, "exceeds 16384"));
  EXPECT_TRUE(is_refused([] { rmsnorm_spec({.dim = 64, .rows_per_token = 0}); }, "no rows"));
  EXPECT_TRUE(is_refused([] { rmsnorm_spec({.dim = 64, .eps = -1}); }, "found -1"));
}

TEST(RmsNormCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(compiles_everywhere(rmsnorm_spec({.dim = 2048, .n_tokens = 5, .eps = 1e-6f, .has_residual = true})));
  EXPECT_TRUE(compiles_everywhere(rmsnorm_spec({.dim = 128, .rows_per_token = 32, .n_tokens = 5, .eps = 1e-6f})));
  EXPECT_TRUE(compiles_everywhere(rmsnorm_spec({.dim = 16384, .eps = 1e-6f, .has_weight = false, .has_residual = true})));
}

struct Case {
  RmsNormParams params;
  uint32_t n_valid;
};

class RmsNormDevice : public ::testing::TestWithParam<Case> {};

TEST_P(RmsNormDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  const auto [p, n_valid] = GetParam();
  const std::size_t per_token = std::size_t{p.rows_per_token} * p.dim, n = per_token * p.n_tokens;
  const std::vector<float> x = random_floats(n, 1, 3.0), w = random_floats(p.dim, 2), residual = random_floats(n, 3);
  KernelRunner gpu;
  const RmsNormArgs args = {.x = gpu.upload(x), .weight = p.has_weight ? gpu.upload(w) : nullptr,
                            .residual = p.has_residual ? gpu.upload(residual) : nullptr, .y = gpu.alloc<float>(n),
                            .state = gpu.upload_value(StepState{.position = 0, .n_tokens = int32_t(n_valid), .token = 0, .step_idx = 0})};
  gpu.run(rmsnorm_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, n);

  const std::size_t n_checked = per_token * n_valid;
  const ref::Vec x_valid(x.begin(), x.begin() + std::ptrdiff_t(n_checked));
  ref::Vec want = ref::rmsnorm(x_valid, p.has_weight ? ref::to_f64(w) : ref::Vec{}, p.dim, p.eps);
  // The sum of squares is all positive: its relative error is at most the additions in a row (up to 16 a thread, 10
  // shuffles) plus one product; the root halves it. Then division, root, reciprocal and two products.
  const double relative = ((16 + 10 + 1) / 2.0 + 6) * kRoundF32;
  ref::Vec bound(want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    bound[i] = relative * std::fabs(want[i]);
    if (p.has_residual) {
      want[i] += residual[i];
      bound[i] += kRoundF32 * std::fabs(want[i]);
    }
  }
  EXPECT_TRUE(is_close({y.begin(), y.begin() + std::ptrdiff_t(n_checked)}, want, bound));
  for (std::size_t i = n_checked; i < n; ++i) ASSERT_EQ(y[i], unwritten()) << i;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RmsNormDevice,
    ::testing::Values(Case{{.dim = 2048, .eps = 1e-6f}, 1}, Case{{.dim = 576, .n_tokens = 4, .eps = 1e-5f, .has_residual = true}, 3},
                      Case{{.dim = 64, .rows_per_token = 9, .n_tokens = 3, .eps = 1e-6f}, 2}, Case{{.dim = 128, .rows_per_token = 5, .eps = 1e-6f}, 1},
                      Case{{.dim = 4, .rows_per_token = 3, .eps = 1e-6f}, 1}, Case{{.dim = 512, .n_tokens = 2, .eps = 0, .has_weight = false}, 2},
                      Case{{.dim = 516, .eps = 1e-6f}, 1}, Case{{.dim = 5120, .n_tokens = 2, .eps = 1e-6f}, 0},
                      Case{{.dim = 16384, .eps = 1e-6f, .has_residual = true}, 1}));

TEST(RmsNormDevice, WorksInPlace) {
  SJ_SKIP_WITHOUT_GPU();
  const RmsNormParams p = {.dim = 1024, .eps = 1e-6f, .has_residual = true};
  const std::vector<float> x = random_floats(p.dim, 4), w = random_floats(p.dim, 5), residual = random_floats(p.dim, 6);
  KernelRunner gpu;
  float* y = gpu.upload(residual);
  gpu.run(rmsnorm_spec(p), RmsNormArgs{.x = gpu.upload(x), .weight = gpu.upload(w), .residual = y, .y = y, .state = nullptr});
  const ref::Vec want = ref::add(ref::rmsnorm(ref::to_f64(x), ref::to_f64(w), p.dim, p.eps), ref::to_f64(residual));
  EXPECT_TRUE(is_close(gpu.download(y, p.dim), want, 20 * kRoundF32, 20 * kRoundF32 * 10));   // terms stay below 10
}

TEST(RmsNormDevice, ZeroRowsStayZero) {
  SJ_SKIP_WITHOUT_GPU();
  const RmsNormParams p = {.dim = 256, .eps = 1e-6f};
  KernelRunner gpu;
  const RmsNormArgs args = {.x = gpu.upload(std::vector<float>(256, 0.0f)), .weight = gpu.upload(random_floats(256, 7)), .residual = nullptr,
                            .y = gpu.alloc<float>(256), .state = nullptr};
  gpu.run(rmsnorm_spec(p), args);
  for (const float y : gpu.download(args.y, 256)) ASSERT_EQ(y, 0.0f);
}

}  // namespace
}  // namespace sj::test::rmsnorm_test
