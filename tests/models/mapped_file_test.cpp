#include "models/mapped_file.h"

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "models/gguf_file.h"
#include "tests/support/gguf_writer.h"

namespace sj::mapped_file_test {
namespace {

using namespace sj::test;
namespace fs = std::filesystem;

std::string big_gguf() {
  GgufWriter w;
  w.put_string("general.architecture", "llama");
  w.add_tensor("w", DType::kF32, {1 << 16});
  return gguf_bytes(w);
}

/// Reads every page, as the loader would.
int sum_of(const GgufFile& file) {
  int sum = 0;
  for (const std::byte b : file.bytes(file.tensors()[0])) sum += std::to_integer<int>(b);
  return sum;
}

TEST(GuardMappedFilesDeathTest, NamesTheFileThatWasCutShortAndExitsWithTheIoCode) {
  const TempDir dir;
  const std::string path = dir.write("m.gguf", big_gguf());
  const auto read_a_cut_file = [&] {
    guard_mapped_files();
    const GgufFile file = open_gguf(path);
    fs::resize_file(path, 8192);   // after the checks at open
    std::_Exit(sum_of(file));
  };
  EXPECT_EXIT(read_a_cut_file(), testing::ExitedWithCode(3),
              "sparkjit: error: the file was cut short or could not be read while in use .offset 8192; file .*m\\.gguf");
}

TEST(GuardMappedFilesDeathTest, LeavesOtherBusErrorsToTheHandlerBefore) {
  const auto raise_elsewhere = [] {
    std::signal(SIGBUS, [](int) { std::_Exit(42); });
    guard_mapped_files();
    std::raise(SIGBUS);
  };
  EXPECT_EXIT(raise_elsewhere(), testing::ExitedWithCode(42), "");
  const auto raise_without_handler = [] {
    std::signal(SIGBUS, SIG_DFL);
    guard_mapped_files();
    std::raise(SIGBUS);
    std::raise(SIGBUS);   // the first one put the default action back
  };
  EXPECT_EXIT(raise_without_handler(), testing::KilledBySignal(SIGBUS), "");
}

TEST(GuardMappedFilesDeathTest, SurvivesManyCutsWithoutAnUnnamedDeath) {
  const TempDir dir;
  const std::string bytes = big_gguf();
  guard_mapped_files();
  for (uint64_t percent = 3; percent < 100; percent += 8) {
    const std::string path = dir.write("m.gguf", bytes);
    const auto read_a_cut_file = [&] {
      const GgufFile file = open_gguf(path);
      fs::resize_file(path, bytes.size() * percent / 100);
      std::_Exit(sum_of(file));
    };
    EXPECT_EXIT(read_a_cut_file(), testing::ExitedWithCode(3), "the file was cut short") << percent;
  }
}

}  // namespace
}  // namespace sj::mapped_file_test
