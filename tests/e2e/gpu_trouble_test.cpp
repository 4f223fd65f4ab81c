// What can be wrong with a GPU, its driver, its memory or the compiler: exit code and message of each, on the software GPU.
#include <gtest/gtest.h>

#include "tests/e2e/binary.h"
#include "tests/e2e/failure.h"
#include "tests/e2e/tiny_model.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::gpu_trouble_test {
namespace {

constexpr int kUsage = 2, kCompile = 6, kCuda = 7;
const std::string kLibcuda = SPARKJIT_SOFTGPU_LIB "/libcuda.so.1";
const std::string kLibnvrtc = SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13";
using Environment = std::vector<std::pair<std::string, std::string>>;

class GpuTrouble : public testing::Test {
 protected:
  Outcome run(const Environment& environment, const std::vector<std::string>& more = {}, const std::string& libnvrtc = kLibnvrtc) {
    std::vector<std::string> args = {"run", "-m", model_, "-p", "abc", "-n", "4", "--temp", "0", "--device", "cuda",
                                     "--libcuda", kLibcuda, "--libnvrtc", libnvrtc};
    args.insert(args.end(), more.begin(), more.end());
    return run_sparkjit(args, {.environment = environment});
  }
  TempDir folder_;
  std::string model_ = folder_.write("tiny.gguf", tiny_model_bytes({.ctx_tokens = 1 << 20}));
};

constexpr const char* kSmallContext = "64";

TEST_F(GpuTrouble, ADriverWithoutADevice) {
  expect_error(run({{"SOFTCUDA_FAULT", "cuInit:1:100"}}), kCuda, {kLibcuda, "finds no CUDA device", "--device cpu"});
}

TEST_F(GpuTrouble, AnOrdinalThatIsNotThere) {
  expect_error(run({}, {"--device", "cuda:3"}), kUsage, {"--device"});   // given twice
  std::vector<std::string> args = {"run", "-m", model_, "-p", "abc", "--device", "cuda:3", "--libcuda", kLibcuda};
  expect_error(run_sparkjit(args), kCuda, {"no CUDA device 3", "1 present"});
}

TEST_F(GpuTrouble, ADriverThatIsTooOld) {
  expect_error(run({{"SOFTCUDA_DRIVER", "12040"}}), kCuda, {"too old", "CUDA 12.4", "12.8 or newer", "driver 570", "--device cpu"});
}

TEST_F(GpuTrouble, NoCompilerAndNothingCached) {
  expect_error(run({}, {"--cache-dir", "none", "-c", kSmallContext}, "/no/such/libnvrtc.so"), kCompile,
               {"NVRTC can't be opened", "/no/such/libnvrtc.so", "--libnvrtc"});
}

TEST_F(GpuTrouble, NoCompilerIsNeededWhenAllIsCached) {
  const Outcome first = run({}, {"-c", kSmallContext});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const Outcome second = run({}, {"-c", kSmallContext}, "/no/such/libnvrtc.so");
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(second.out, first.out);
}

TEST_F(GpuTrouble, AKernelOfTheUsersThatDoesNotCompile) {
  const std::filesystem::path kernels = folder_.path() / "kernels";
  std::filesystem::copy(SPARKJIT_SOURCE_DIR "/kernel_src", kernels, std::filesystem::copy_options::recursive);
  std::ofstream(kernels / "rmsnorm.cu", std::ios::app) << "\nint broken = \"text\";\n";
  const Outcome outcome = run({}, {"--cache-dir", "none", "-c", kSmallContext, "--kernel-dir", kernels.string()});
  expect_error(outcome, kCompile, {"can't compile kernel rmsnorm[", "from the " + kernels.string() + " texts", "rmsnorm.cu(", "error:", "source: "});
}

TEST_F(GpuTrouble, OutOfMemoryNamesNeededAndFree) {
  expect_error(run({{"SOFTCUDA_MEMORY", "1048576"}}, {"-c", kSmallContext}), kCuda,
               {"out of GPU memory: needed ", "weights ", "KV cache ", "free 1.0 MiB of 1.0 MiB", "--device cpu"});
}

TEST_F(GpuTrouble, AnAllocationThatFailsNamesNeededAndFree) {
  const Outcome outcome = run({{"SOFTCUDA_FAULT", "cuMemAlloc_v2:1:2"}}, {"-c", kSmallContext});
  expect_error(outcome, kCuda, {"out of GPU memory", "needed", "free"});
}

TEST_F(GpuTrouble, AContextLongerThanMemoryNamesOneThatFits) {
  expect_error(run({{"SOFTCUDA_MEMORY", "134217728"}}, {"-c", "1000000"}), kCuda,
               {"out of GPU memory", "KV cache 122.1 MiB", "free 128.0 MiB of 128.0 MiB", "a context of ", "would fit (--ctx "});
}

TEST_F(GpuTrouble, APromptLongerThanTheContext) {
  expect_error(run({}, {"-c", "3"}), kUsage, {"--prompt: 4 tokens", "context of 3"});
}

TEST_F(GpuTrouble, SyncLaunchesNamesTheFailingLaunch) {
  const Environment fault = {{"SOFTCUDA_FAULT", "cuLaunchKernelEx:5:700"}};
  expect_error(run(fault, {"-c", kSmallContext, "--sync-launches"}), kCuda, {"CUDA_ERROR_ILLEGAL_ADDRESS", "launch blk.0."});
}

TEST_F(GpuTrouble, BenchOfARandomContextNeedsNoPrefill) {
  const std::vector<std::string> args = {"bench", "-m", model_, "-p", "0", "-d", "200", "-n", "2", "-r", "1", "--warmup", "0",
                                         "--fill", "random", "--device", "cuda", "--libcuda", kLibcuda, "--libnvrtc", kLibnvrtc};
  const Outcome outcome = run_sparkjit(args, {});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("tg2 @ d200 | random |"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace sj::test::gpu_trouble_test
