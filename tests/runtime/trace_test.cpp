// From stamps of a clock to slices that add up to the step; and that every kernel of a decode step compiles with the stamps.
#include "runtime/trace.h"

#include <gtest/gtest.h>

#include "jit/compiler.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/planner.h"
#include "runtime/session_steps.h"

namespace sj::trace_test {
namespace {

TEST(SlicesOf, AddUpFromTheFirstReleaseToTheLastEnd) {
  // The second launch was there 2 us before the first one ended and had its inputs 0.5 us after.
  const std::vector<LaunchStamps> stamps = {{1000, 1500, 10'000}, {8000, 10'500, 14'000}, {13'000, 14'200, 20'000}};
  const std::vector<LaunchSlice> slices = slices_of(stamps);
  ASSERT_EQ(slices.size(), 3u);
  EXPECT_DOUBLE_EQ(slices[0].gap_us, 0);
  EXPECT_DOUBLE_EQ(slices[0].us, 8.5);
  EXPECT_DOUBLE_EQ(slices[1].gap_us, 0.5);
  EXPECT_DOUBLE_EQ(slices[1].us, 3.5);
  EXPECT_DOUBLE_EQ(slices[1].early_us, 2.5);
  EXPECT_NEAR(slices[2].gap_us, 0.2, 1e-12);
  double sum = 0;
  for (const LaunchSlice& slice : slices) sum += slice.gap_us + slice.us;
  EXPECT_NEAR(sum, 18.5, 1e-12);
  EXPECT_EQ(slices[1].empty_us, 0) << "the second launch was there before the first one ended";
}

TEST(SlicesOf, TheCardIsEmptyUntilTheNextLaunchIsThere) {
  const std::vector<LaunchSlice> slices = slices_of(std::vector<LaunchStamps>{{0, 0, 5000}, {5600, 6000, 7000}});
  EXPECT_DOUBLE_EQ(slices[1].gap_us, 1);
  EXPECT_DOUBLE_EQ(slices[1].empty_us, 0.6);
}

// A coarse clock, or a launch without a wait, gives stamps that overlap: no time is counted twice or less than once.
TEST(SlicesOf, OverlappingStampsAreCut) {
  const std::vector<LaunchSlice> slices = slices_of(std::vector<LaunchStamps>{{0, 0, 5000}, {1000, 3000, 4000}, {2000, 6000, 7000}});
  EXPECT_EQ(slices[1].gap_us, 0);
  EXPECT_EQ(slices[1].us, 0);
  EXPECT_EQ(slices[2].gap_us, 1);
  EXPECT_EQ(slices[2].us, 1);
  EXPECT_TRUE(slices_of({}).empty());
}

TEST(MiddleMean, LeavesOutTheSlowestAndTheFastestQuarter) {
  const auto run = [](double us) { return std::vector<LaunchSlice>{{0, us, 1}, {0.5, us, 0}}; };
  const std::vector<std::vector<LaunchSlice>> runs = {run(100), run(10), run(12), run(1)};
  const std::vector<LaunchSlice> mean = middle_mean(runs);
  ASSERT_EQ(mean.size(), 2u);
  EXPECT_DOUBLE_EQ(mean[0].us, 11);
  EXPECT_DOUBLE_EQ(mean[0].early_us, 1);
  EXPECT_DOUBLE_EQ(mean[1].gap_us, 0.5);
  EXPECT_DOUBLE_EQ(middle_mean({runs.data(), 1})[0].us, 100);
}

TEST(TracedSources, ReachEveryKernelOfAStep) {
  std::string why;
  const Nvrtc* nvrtc = find_nvrtc({}, &why);
  const SourceSet sources = traced_sources(SourceSet::embedded());
  const ModelDesc model = describe_model(synthetic_gguf(load_shape("qwen3-30b-a3b"), {.n_layers = 1}));
  const DeviceInfo device = require_device_profile("h200");
  const std::vector<Lowered> steps = lower_steps(model, device, {.max_ctx_tokens = 256, .prefill_tokens = 1});
  for (KernelSpec& spec : collect_kernels(steps).specs) {
    spec.baked.push_back({"kTrace", int64_t{0x7F0000001000}, "unsigned long long"});
    const SourceClosure closure = sources.require_closure(spec.source);
    EXPECT_TRUE(std::any_of(closure.headers.begin(), closure.headers.end(), [](const NamedText& h) { return h.name == "device/ptx_trace.cuh"; }))
        << spec.source;
    if (nvrtc == nullptr) continue;
    spec.may_spill = true;
    EXPECT_FALSE(compile(*nvrtc, {.spec = spec, .sources = sources, .target = device.target()}).bytes.empty()) << spec.source;
  }
  if (nvrtc == nullptr) GTEST_SKIP() << why;
}

}  // namespace
}  // namespace sj::trace_test
