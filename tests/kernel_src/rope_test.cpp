#include "kernel_src/rope_spec.h"

#include <limits>
#include <numbers>

#include "kernel_src/args/rope.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::rope_test {
namespace {

TEST(RopeSpec, TableHoldsFractionsOfATurn) {
  const double tau = 2 * std::numbers::pi;
  const std::vector<double> frequencies = {tau / 4, tau, 1.5 * tau, 0.0, -tau / 4};
  const std::vector<uint64_t> turns = rope_turns(frequencies);
  const auto near = [](uint64_t got, uint64_t want) { return int64_t(got - want) > -4096 && int64_t(got - want) < 4096; };
  EXPECT_TRUE(near(turns[0], uint64_t{1} << 62)) << turns[0];
  EXPECT_TRUE(near(turns[1], 0)) << turns[1];                    // a whole turn does nothing
  EXPECT_TRUE(near(turns[2], uint64_t{1} << 63)) << turns[2];
  EXPECT_EQ(turns[3], 0u);
  EXPECT_TRUE(near(turns[4], uint64_t{3} << 62)) << turns[4];
}

TEST(RopeSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { rope_spec({.n_heads = 0, .head_dim = 64, .n_rot = 64}); }, "no heads"));
  EXPECT_TRUE(is_refused([] { rope_spec({.n_heads = 1, .head_dim = 63, .n_rot = 2}); }, "head_dim 63"));
  EXPECT_TRUE(is_refused([] { rope_spec({.n_heads = 1, .head_dim = 64, .n_rot = 66}); }, "n_rot 66"));
  EXPECT_TRUE(is_refused([] { rope_spec({.n_heads = 1, .head_dim = 64, .n_rot = 3}); }, "n_rot 3"));
  EXPECT_TRUE(is_refused([] { rope_turns(std::vector<double>{std::numeric_limits<double>::infinity()}); }, "not finite"));
}

TEST(RopeSpec, CoversEveryPairOfEveryToken) {
  const KernelSpec spec = rope_spec({.n_heads = 9, .head_dim = 64, .n_rot = 64, .n_tokens = 5});
  EXPECT_GE(spec.launch.grid.x * spec.launch.block.x, 9u * 32);
  EXPECT_EQ(spec.launch.grid.y, 5u);
}

TEST(RopeCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  for (const bool is_interleaved : {false, true})
    EXPECT_TRUE(compiles_everywhere(
        rope_spec({.n_heads = 32, .head_dim = 128, .n_rot = 64, .n_tokens = 4, .is_interleaved = is_interleaved, .magnitude = 1.3f})));
}

struct Case {
  RopeParams params;
  int32_t position;
};

class RopeDevice : public ::testing::TestWithParam<Case> {};

TEST_P(RopeDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  const auto [p, position] = GetParam();
  const std::size_t n = std::size_t{p.n_tokens} * p.n_heads * p.head_dim;
  const std::vector<float> x = random_floats(n, 1);
  const std::vector<double> inv_freq = ref::rope_inv_freq(p.n_rot, 1e6);
  KernelRunner gpu;
  const RopeArgs args = {.x = gpu.upload(x), .turns = gpu.upload(rope_turns(inv_freq)), .y = gpu.alloc<float>(n),
                         .state = gpu.upload_value(StepState{.position = position, .n_tokens = int32_t(p.n_tokens), .token = 0, .step_idx = 0})};
  gpu.run(rope_spec(p), args);
  std::vector<int> positions;
  for (uint32_t t = 0; t < p.n_tokens; ++t) positions.push_back(position + int(t));
  const ref::Vec want = ref::rope(ref::to_f64(x), positions, p.n_heads, p.head_dim, inv_freq, p.is_interleaved, double(p.magnitude));
  // Sine and cosine are good to 2^-22 (rotation.cuh), both products and the sum round; |x| stays below 5.
  const double bound = 2 * 5 * double(p.magnitude) * (0x1p-22 + 4 * kRoundF32);
  EXPECT_TRUE(is_close(gpu.download(args.y, n), want, 0, bound));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RopeDevice,
    ::testing::Values(Case{{.n_heads = 3, .head_dim = 64, .n_rot = 64}, 0}, Case{{.n_heads = 3, .head_dim = 64, .n_rot = 64, .n_tokens = 5}, 17},
                      Case{{.n_heads = 2, .head_dim = 128, .n_rot = 128, .n_tokens = 2}, 100000},
                      Case{{.n_heads = 2, .head_dim = 128, .n_rot = 128, .n_tokens = 3, .is_interleaved = true, .magnitude = 1.25f}, 262140},
                      Case{{.n_heads = 2, .head_dim = 128, .n_rot = 32, .n_tokens = 2}, 12345},
                      Case{{.n_heads = 5, .head_dim = 80, .n_rot = 40, .n_tokens = 2, .is_interleaved = true}, 7}));

TEST(RopeDevice, WorksInPlaceAndSkipsTokensThatAreNotValid) {
  SJ_SKIP_WITHOUT_GPU();
  const RopeParams p = {.n_heads = 2, .head_dim = 64, .n_rot = 64, .n_tokens = 3};
  const std::vector<float> x = random_floats(3 * 128, 2);
  const std::vector<double> inv_freq = ref::rope_inv_freq(64, 1e4);
  KernelRunner gpu;
  float* y = gpu.upload(x);
  gpu.run(rope_spec(p), RopeArgs{.x = y, .turns = gpu.upload(rope_turns(inv_freq)), .y = y,
                                 .state = gpu.upload_value(StepState{.position = 50, .n_tokens = 2, .token = 0, .step_idx = 0})});
  ref::Vec want = ref::rope(ref::Vec(x.begin(), x.begin() + 256), {50, 51}, 2, 64, inv_freq, false);
  want.insert(want.end(), x.begin() + 256, x.end());
  EXPECT_TRUE(is_close(gpu.download(y, 384), want, 0, 10 * (0x1p-22 + 4 * kRoundF32)));
}

}  // namespace
}  // namespace sj::test::rope_test
