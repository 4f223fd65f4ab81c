#include "kernel_src/argmax_spec.h"

#include <limits>

#include "kernel_src/args/argmax.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::argmax_test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

TEST(ArgmaxSpec, FewLogitsTakeOneBlock) {
  EXPECT_EQ(argmax_spec({.n_vocab = 1000, .n_ring_slots = 8}).launch.grid.x, 1u);
  EXPECT_EQ(argmax_spec({.n_vocab = 1025, .n_ring_slots = 8}).launch.grid.x, 2u);
  EXPECT_EQ(argmax_spec({.n_vocab = 262144, .n_ring_slots = 8}).launch.grid.x, 128u);
}

TEST(ArgmaxSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { argmax_spec({.n_vocab = 0, .n_ring_slots = 8}); }, "vocabulary is empty"));
  EXPECT_TRUE(is_refused([] { argmax_spec({.n_vocab = 10, .n_ring_slots = 6}); }, "6 ring slots are not a power of two"));
  EXPECT_TRUE(is_refused([] { argmax_spec({.n_vocab = 10, .n_ring_slots = 0}); }, "0 ring slots"));
}

TEST(ArgmaxCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(compiles_everywhere(argmax_spec({.n_vocab = 151936, .n_ring_slots = 1024})));
  EXPECT_TRUE(compiles_everywhere(argmax_spec({.n_vocab = 5, .n_ring_slots = 1})));
}

/// One session's sampling: the state and the ring live on from step to step.
struct Sampling {
  explicit Sampling(uint32_t n_vocab, StepState state) : params{.n_vocab = n_vocab, .n_ring_slots = 4} {
    args = {.logits = nullptr, .sample = {.scratch = gpu.upload_value(ArgmaxScratch{}), .state = gpu.upload_value(state),
                                          .ring = gpu.upload(std::vector<uint64_t>(4, 0)), .nan_step = gpu.upload_value(uint32_t{0})}};
  }
  int32_t step(const std::vector<float>& logits) {
    args.logits = gpu.upload(logits);
    gpu.run(argmax_spec(params), args);
    return state().token;
  }
  StepState state() { return gpu.download(args.sample.state, 1)[0]; }
  std::vector<uint64_t> ring() { return gpu.download(args.sample.ring, 4); }
  uint32_t nan_step() { return gpu.download(args.sample.nan_step, 1)[0]; }

  KernelRunner gpu;
  ArgmaxParams params;
  ArgmaxArgs args;
};

TEST(ArgmaxDevice, FindsTheLargestLogit) {
  SJ_SKIP_WITHOUT_GPU();
  for (const uint32_t n_vocab : {1u, 31u, 1024u, 5000u, 70000u}) {
    Sampling s(n_vocab, {.position = 0, .n_tokens = 1, .token = 0, .step_idx = 0});
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const std::vector<float> logits = random_floats(n_vocab, seed);
      EXPECT_EQ(s.step(logits), int32_t(ref::argmax(ref::to_f64(logits)))) << n_vocab;
    }
  }
}

TEST(ArgmaxDevice, TiesGoToTheLowestToken) {
  SJ_SKIP_WITHOUT_GPU();
  std::vector<float> logits(3000, -2.0f);
  logits[2999] = logits[1500] = logits[1025] = -1.0f;
  Sampling s(3000, {.position = 0, .n_tokens = 1, .token = 0, .step_idx = 0});
  EXPECT_EQ(s.step(logits), 1025);
  std::vector<float> zeros(3000, -1.0f);
  zeros[7] = -0.0f, zeros[8] = 0.0f;
  EXPECT_EQ(s.step(zeros), 7) << "minus zero equals zero";
  EXPECT_EQ(s.step(std::vector<float>(3000, -kInf)), 0);
}

TEST(ArgmaxDevice, AdvancesTheStateAndTheRing) {
  SJ_SKIP_WITHOUT_GPU();
  Sampling s(50, {.position = 100, .n_tokens = 7, .token = -1, .step_idx = 0});   // a prompt of 7 tokens, then decode steps
  for (uint32_t step = 0; step < 6; ++step) {
    std::vector<float> logits(50, 0.0f);
    logits[step + 10] = 1.0f;
    s.step(logits);
    const StepState state = s.state();
    EXPECT_EQ(state.position, 107 + int32_t(step));
    EXPECT_EQ(state.n_tokens, 1);
    EXPECT_EQ(state.token, 10 + int32_t(step));
    EXPECT_EQ(state.step_idx, step + 1);
    EXPECT_EQ(s.ring()[step % 4], uint64_t{step + 1} << 32 | (step + 10));
  }
  EXPECT_EQ(s.nan_step(), 0u);
}

TEST(ArgmaxDevice, ReportsTheFirstStepWithANaN) {
  SJ_SKIP_WITHOUT_GPU();
  Sampling s(2000, {.position = 0, .n_tokens = 1, .token = 0, .step_idx = 0});
  std::vector<float> logits = random_floats(2000, 1);
  const int32_t best = s.step(logits);
  EXPECT_EQ(s.nan_step(), 0u);
  logits[1999] = kNan;
  EXPECT_EQ(s.step(logits), best) << "a NaN never wins";
  EXPECT_EQ(s.nan_step(), 2u);
  EXPECT_EQ(s.step(std::vector<float>(2000, kNan)), 0);
  EXPECT_EQ(s.nan_step(), 2u) << "the first one stays";
}

}  // namespace
}  // namespace sj::test::argmax_test
