#include "kernel_src/route_spec.h"

#include <limits>

#include "kernel_src/args/route.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::route_test {
namespace {

TEST(RouteSpec, AWarpAToken) {
  EXPECT_EQ(route_spec({.n_experts = 128, .n_used = 8}).launch.block, (Dim3{32, 1, 1}));
  EXPECT_EQ(route_spec({.n_experts = 128, .n_used = 8, .n_tokens = 9}).launch.grid, (Dim3{3, 1, 1}));
}

TEST(RouteSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { route_spec({.n_experts = 513, .n_used = 8}); }, "found 513"));
  EXPECT_TRUE(is_refused([] { route_spec({.n_experts = 0, .n_used = 0}); }, "found 0"));
  EXPECT_TRUE(is_refused([] { route_spec({.n_experts = 8, .n_used = 9}); }, "min(32, 8) experts a token, found 9"));
  EXPECT_TRUE(is_refused([] { route_spec({.n_experts = 64, .n_used = 33}); }, "found 33"));
}

TEST(RouteCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  for (const uint32_t n_experts : {8u, 128u, 512u}) EXPECT_TRUE(compiles_everywhere(route_spec({.n_experts = n_experts, .n_used = 8, .n_tokens = 7})));
}

struct Routes {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routes run_route(const RouteParams& p, const std::vector<float>& logits, uint32_t n_valid) {
  KernelRunner gpu;
  const std::size_t n = std::size_t{p.n_tokens} * p.n_used;
  const RouteArgs args = {.logits = gpu.upload(logits), .ids = gpu.alloc<int32_t>(n), .weights = gpu.alloc<float>(n),
                          .state = gpu.upload_value(StepState{.position = 0, .n_tokens = int32_t(n_valid), .token = 0, .step_idx = 0})};
  gpu.run(route_spec(p), args);
  return {gpu.download(args.ids, n), gpu.download(args.weights, n)};
}

class RouteDevice : public ::testing::TestWithParam<RouteParams> {};

TEST_P(RouteDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  const RouteParams p = GetParam();
  std::vector<float> logits = random_floats(std::size_t{p.n_tokens} * p.n_experts, 1, 2.0);
  for (std::size_t i = 0; i < logits.size(); i += 3) logits[i] = std::round(logits[i] * 4) / 4;   // many ties
  const Routes got = run_route(p, logits, p.n_tokens);
  for (uint32_t t = 0; t < p.n_tokens; ++t) {
    const ref::Route want = ref::route({logits.begin() + std::ptrdiff_t{t} * p.n_experts, logits.begin() + std::ptrdiff_t{t + 1} * p.n_experts}, p.n_used);
    const auto first = std::ptrdiff_t{t} * p.n_used;
    EXPECT_EQ(std::vector<int>(got.ids.begin() + first, got.ids.begin() + first + p.n_used), want.ids) << "token " << t;
    // The difference of two logits below 10 rounds once: e^x has 10 u; then expf, 5 additions, division.
    EXPECT_TRUE(is_close({got.weights.begin() + first, got.weights.begin() + first + p.n_used}, want.weights, (2 * 10 + 2 * 2 + 7) * kRoundF32, 0))
        << "token " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RouteDevice,
                         ::testing::Values(RouteParams{.n_experts = 128, .n_used = 8}, RouteParams{.n_experts = 512, .n_used = 10, .n_tokens = 5},
                                           RouteParams{.n_experts = 8, .n_used = 2, .n_tokens = 9}, RouteParams{.n_experts = 32, .n_used = 32, .n_tokens = 2},
                                           RouteParams{.n_experts = 1, .n_used = 1}, RouteParams{.n_experts = 60, .n_used = 4, .n_tokens = 3}));

TEST(RouteDevice, EqualLogitsGoByLowerId) {
  SJ_SKIP_WITHOUT_GPU();
  std::vector<float> logits(100, 1.0f);
  logits[70] = 2.0f;
  logits[3] = -0.0f;
  const Routes got = run_route({.n_experts = 100, .n_used = 4}, logits, 1);
  EXPECT_EQ(got.ids, (std::vector<int32_t>{70, 0, 1, 2}));
}

TEST(RouteDevice, ExtremeLogitsStayFinite) {
  SJ_SKIP_WITHOUT_GPU();
  std::vector<float> logits(64, -std::numeric_limits<float>::infinity());
  logits[5] = 1e30f, logits[9] = -1e30f, logits[11] = std::numeric_limits<float>::quiet_NaN();
  const Routes got = run_route({.n_experts = 64, .n_used = 2}, logits, 1);
  EXPECT_EQ(got.ids, (std::vector<int32_t>{5, 9}));
  EXPECT_EQ(got.weights, (std::vector<float>{1.0f, 0.0f}));
}

TEST(RouteDevice, SkipsTokensThatAreNotValid) {
  SJ_SKIP_WITHOUT_GPU();
  const Routes got = run_route({.n_experts = 16, .n_used = 2, .n_tokens = 6}, random_floats(96, 2), 5);
  EXPECT_NE(got.weights[9], unwritten());
  EXPECT_EQ(got.weights[10], unwritten());
  EXPECT_EQ(got.weights[11], unwritten());
}

}  // namespace
}  // namespace sj::test::route_test
