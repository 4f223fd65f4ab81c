// Every driver call that the product makes, failing with each kind of error: one clear message, the right exit code, no hang.
// The table is jit/driver.h's own, so a new call is in it from its first day. In a sanitized build (preset asan) a leak changes the
// exit code: LeakSanitizer's is 23.
#include <gtest/gtest.h>

#include <map>

#include "jit/driver.h"
#include "tests/e2e/binary.h"
#include "tests/e2e/tiny_model.h"
#include "tests/support/gguf_writer.h"

namespace sj::test {
namespace {

constexpr double kSlow_s = 5;   // longer is a hang
constexpr int kFine = 0, kCudaError = 7;

struct Call {
  std::string name, symbol;   // "cuMemAlloc", "cuMemAlloc_v2"
};

#define SJ_STRING_OF(name) #name
#define SJ_SYMBOL_OF(name) SJ_STRING_OF(name)
std::vector<Call> all_calls() {
#define SJ_CALL(name) {#name, SJ_SYMBOL_OF(name)},
  return {SJ_DRIVER_CALLS(SJ_CALL)};
#undef SJ_CALL
}

/// What a destructor calls: a failure is logged, and what was computed stays good.
bool is_release(const std::string& name) {
  return name.ends_with("Destroy") || name.ends_with("Release") || name.ends_with("Unload") || name.find("Free") != std::string::npos;
}

/// The text of an error: it has nothing to fail with.
bool is_error_text(const std::string& name) { return name.starts_with("cuGetError"); }

size_t count(const std::string& text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++n;
  return n;
}

class FaultTable : public testing::TestWithParam<CUresult> {
 protected:
  Outcome run(const std::string& fault) const {
    const std::vector<std::string> args = {"run", "-m", model_, "-p", "abc", "-n", "3", "--temp", "0", "-c", "64", "--device", "cuda",
                                           "--libcuda", SOFTGPU_LIB "/libcuda.so.1", "--libnvrtc", SOFTGPU_LIB "/libnvrtc.so.13"};
    return run_sparkjit(args, {.environment = {{"SOFTCUDA_FAULT", fault}}, .timeout_s = 120});
  }
  int fail_each_call(int first_use) const;

  TempDir folder_;
  std::string model_ = folder_.write("tiny.gguf", tiny_model_bytes());
};

/// From `first_use` on: a retry does not help. Returns how many calls failed.
int FaultTable::fail_each_call(int first_use) const {
  const Outcome clean = run("");   // fills the cache of compiled kernels too
  EXPECT_EQ(clean.exit_code, kFine) << clean.err;
  int n_used = 0;
  for (const Call& call : all_calls()) {
    if (is_error_text(call.name)) continue;
    const Outcome outcome = run(call.symbol + ":" + std::to_string(first_use) + "+:" + std::to_string(static_cast<int>(GetParam())));
    SCOPED_TRACE(call.name + "\n" + outcome.err);
    EXPECT_LT(outcome.wall_s, kSlow_s);
    if (outcome.err.find(call.symbol + " fails as asked") == std::string::npos) {
      EXPECT_EQ(outcome.exit_code, kFine);
      EXPECT_EQ(outcome.out, clean.out);
      continue;
    }
    ++n_used;
    const size_t error_at = outcome.err.find("sparkjit: error: ");
    if (is_release(call.name) && outcome.exit_code == kFine) {
      EXPECT_EQ(outcome.out, clean.out);
      EXPECT_NE(outcome.err.find(call.name + " failed: CUDA_ERROR_"), std::string::npos) << "no warning";
      continue;
    }
    EXPECT_LE(count(outcome.err, "# cuda: warning: "), 1u) << "the error is buried";
    EXPECT_EQ(outcome.exit_code, kCudaError);
    EXPECT_NE(error_at, std::string::npos);
    if (error_at == std::string::npos) continue;
    EXPECT_EQ(outcome.err.find("sparkjit: error: ", error_at + 1), std::string::npos) << "more than one error";
    EXPECT_TRUE(outcome.err.find("CUDA_ERROR_", error_at) != std::string::npos ||
                outcome.err.find("out of GPU memory", error_at) != std::string::npos ||
                outcome.err.find("no CUDA device can be used", error_at) != std::string::npos);
  }
  return n_used;
}

TEST_P(FaultTable, EveryCallEndsWithOneClearError) { EXPECT_GT(fail_each_call(1), 30); }

/// Later uses, in the middle of loading, of a capture or of a step; the code makes no difference there but for memory's.
TEST_P(FaultTable, EveryCallsFourthUseEndsWithOneClearError) {
  if (GetParam() != CUDA_ERROR_OUT_OF_MEMORY && GetParam() != CUDA_ERROR_LAUNCH_FAILED) GTEST_SKIP() << "two codes are enough";
  EXPECT_GT(fail_each_call(4), 15);
}

INSTANTIATE_TEST_SUITE_P(Codes, FaultTable,
                         testing::Values(CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_LAUNCH_FAILED,
                                         CUDA_ERROR_DEVICE_UNAVAILABLE),
                         [](const auto& info) { return "Code" + std::to_string(static_cast<int>(info.param)); });

}  // namespace
}  // namespace sj::test
