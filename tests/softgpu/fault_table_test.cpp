// Every driver call that the product makes, failing with each kind of error: one clear message, the right exit code, no hang.
// The table is jit/driver.h's own, so a new call is in it from its first day. In a sanitized build (preset asan) a leak changes the
// exit code: LeakSanitizer's is 23.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "jit/driver.h"
#include "tests/e2e/binary.h"
#include "tests/e2e/tiny_model.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::fault_table_test {
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
  Outcome run(const std::string& variable, const std::string& value) const {
    const std::vector<std::string> args = {"run", "-m", model_, "-p", "abc", "-n", "3", "--temp", "0", "-c", "64", "--device", "cuda",
                                           "--libcuda", SPARKJIT_SOFTGPU_LIB "/libcuda.so.1", "--libnvrtc", SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13"};
    return run_sparkjit(args, {.environment = {{variable, value}}, .timeout_s = 120});
  }
  /// How often an undisturbed run uses each entry point.
  std::map<std::string, int> count_calls() const;
  int fail_each_call(int first_use) const;

  TempDir folder_;
  std::string model_ = folder_.write("tiny.gguf", tiny_model_bytes());
};

std::map<std::string, int> FaultTable::count_calls() const {
  const std::string path = (folder_.path() / "calls").string();
  EXPECT_EQ(run("SOFTCUDA_CALLS", path).exit_code, kFine);
  std::map<std::string, int> n_uses;
  std::ifstream in(path);
  std::string symbol;
  for (int n = 0; in >> symbol >> n;) n_uses[symbol] = n;
  return n_uses;
}

/// From `first_use` on: a retry does not help. Returns how many calls failed.
int FaultTable::fail_each_call(int first_use) const {
  const Outcome clean = run("SOFTCUDA_FAULT", "");   // fills the cache of compiled kernels too
  EXPECT_EQ(clean.exit_code, kFine) << clean.err;
  const std::map<std::string, int> n_uses = count_calls();
  int n_failed = 0;
  for (const Call& call : all_calls()) {
    const auto uses = n_uses.find(call.symbol);
    if (is_error_text(call.name) || uses == n_uses.end() || uses->second < first_use) continue;
    const Outcome outcome =
        run("SOFTCUDA_FAULT", call.symbol + ":" + std::to_string(first_use) + "+:" + std::to_string(static_cast<int>(GetParam())));
    SCOPED_TRACE(call.name + "\n" + outcome.err);
    EXPECT_LT(outcome.wall_s, kSlow_s);
    EXPECT_NE(outcome.err.find(call.symbol + " fails as asked"), std::string::npos) << "not used";
    ++n_failed;
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
  return n_failed;
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
}  // namespace sj::test::fault_table_test
