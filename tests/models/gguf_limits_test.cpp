// How long a reader of GGUF files takes over bad ones, and how much memory: sanitizers would hide both.
#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <span>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "models/gguf_file.h"
#include "models/gguf_parse.h"
#include "tests/support/gguf_writer.h"

namespace sj::gguf_limits_test {
namespace {

using namespace sj::test;

std::string file_of_keys(uint64_t n, bool has_duplicate) {
  std::string out = gguf_head(0, static_cast<int64_t>(n));
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t id = has_duplicate && i + 1 == n ? 0 : i;
    out += gguf_key(fmt::format("k{}", id), kGgufU8, "x");
  }
  return out;
}

double best_seconds_to_judge(const std::string& bytes, bool is_good) {
  double best = 1e9;
  for (int repeat = 0; repeat < 5; ++repeat) {
    timespec begin{}, end{};   // of this thread's processor time: other processes don't count
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    try {
      gguf_from_memory(std::as_bytes(std::span(bytes)), "keys.gguf");
      EXPECT_TRUE(is_good);
    } catch (const Error& error) {
      EXPECT_FALSE(is_good) << error.what();
    }
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    best = std::min(best, static_cast<double>(end.tv_sec - begin.tv_sec) + 1e-9 * static_cast<double>(end.tv_nsec - begin.tv_nsec));
  }
  return best;
}

#if defined(NDEBUG) && !defined(SJ_SANITIZED)
constexpr double kLimit_s = 0.1;
#else
constexpr double kLimit_s = 1;
#endif

TEST(GgufLimits, Judges200000KeysWithin100MsAndInLinearTime) {
  const std::string good = file_of_keys(200000, false);
  const double seconds = best_seconds_to_judge(good, true);
  EXPECT_LT(seconds, kLimit_s);
  EXPECT_LT(best_seconds_to_judge(file_of_keys(200000, true), false), kLimit_s);
  const double twice = best_seconds_to_judge(file_of_keys(400000, false), true);
  EXPECT_LT(twice, 4 * seconds + 0.01);   // quadratic would be 4; 2 plus cache misses is what linear gives
  RecordProperty("milliseconds_200k", fmt::format("{:.2f}", seconds * 1e3));
  RecordProperty("milliseconds_400k", fmt::format("{:.2f}", twice * 1e3));
}

uint64_t peak_rss_bytes() {
  uint64_t kib = 0;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) kib = std::strtoull(line.c_str() + 6, nullptr, 10);
  return kib * 1024;
}

TEST(GgufLimits, AllocatesByWhatIsThereNotByWhatIsDeclared) {
#ifdef SJ_SANITIZED
  GTEST_SKIP() << "a sanitizer's own memory hides ours";
#endif
  // Resets the peak to the present size; where the kernel forbids it the test still bounds the total.
  std::ofstream("/proc/self/clear_refs") << "5";
  const uint64_t before = peak_rss_bytes();
  const std::string tail(1 << 20, '\0');
  for (uint32_t type = 0; type <= 12; ++type) {
    if (type == kGgufArray) continue;
    const uint64_t element_bytes = type == kGgufString ? 8 : gguf_scalar_bytes(type);
    const std::string bytes = gguf_head(1 << 14, 1 << 14) + gguf_key("a", kGgufArray, gguf_array(type, tail.size() / element_bytes, "")) + tail;
    EXPECT_THROW(gguf_from_memory(std::as_bytes(std::span(bytes)), "bad.gguf"), Error);
  }
  EXPECT_LT(peak_rss_bytes() - before, uint64_t{16} << 20);
  const std::string keys = file_of_keys(200000, false);
  gguf_from_memory(std::as_bytes(std::span(keys)), "keys.gguf");
  EXPECT_LT(peak_rss_bytes() - before, (uint64_t{16} << 20) + 4 * keys.size());
}

}  // namespace
}  // namespace sj::gguf_limits_test
