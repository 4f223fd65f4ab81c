#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <set>
#include <thread>

#include "jit/base/file.h"
#include "jit/base/hash.h"
#include "jit/base/log.h"
#include "jit/base/parallel.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::base_test {
namespace {

using test::LogCapture;
using test::TempFolder;
using test::throws_error;

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(dir)) names.push_back(item.path().filename().string());
  return names;
}

// The values are those of the xxHash specification's test vectors for XXH3 128 of the empty input.
TEST(Hash, MatchesPublishedVector) { EXPECT_EQ(to_hex(hash_text("")), "99aa06d3014798d86001c324468d497f"); }

TEST(Hash, HexHasThirtyTwoDigitsAlsoForSmallValues) { EXPECT_EQ(to_hex({0, 1}), "00000000000000000000000000000001"); }

TEST(FieldHasher, SeparatesFields) {
  const auto hash_of = [](std::initializer_list<std::string_view> fields) {
    FieldHasher hasher;
    for (const std::string_view field : fields) hasher.add(field);
    return hasher.digest();
  };
  EXPECT_NE(hash_of({"ab", "c"}), hash_of({"a", "bc"}));
  EXPECT_NE(hash_of({"", "a"}), hash_of({"a", ""}));
  EXPECT_NE(hash_of({"a"}), hash_of({"a", ""}));
  EXPECT_EQ(hash_of({"ab", "c"}), hash_of({"ab", "c"}));
}

TEST(File, ReadsBackWhatWasWritten) {
  const TempFolder folder;
  const std::string text("a\0b\xff" "c", 5);
  atomic_write(folder / "f", text);
  EXPECT_EQ(read_file(folder / "f"), text);
  const MappedFile mapped(folder / "f");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size()), text);
}

TEST(File, AtomicWriteReplacesAndLeavesNoOtherFile) {
  const TempFolder folder;
  atomic_write(folder / "f", "old");
  atomic_write(folder / "f", "new");
  EXPECT_EQ(read_file(folder / "f"), "new");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(File, AtomicWriteGivesOnlyTheOwnerAccess) {
  const TempFolder folder;
  atomic_write(folder / "f", "x");
  struct stat info = {};
  ASSERT_EQ(::stat((folder / "f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST(File, MappedBytesOutliveTheFile) {
  const TempFolder folder;
  atomic_write(folder / "f", "still here");
  const MappedFile mapped(folder / "f");
  std::filesystem::remove(folder / "f");
  EXPECT_EQ(static_cast<char>(mapped.bytes()[9]), 'e');
}

TEST(File, EmptyFileMapsToNoBytes) {
  const TempFolder folder;
  atomic_write(folder / "f", "");
  EXPECT_TRUE(MappedFile(folder / "f").bytes().empty());
  EXPECT_EQ(read_file(folder / "f"), "");
}

TEST(File, ReadsFilesThatTellNoSize) { EXPECT_NE(read_file("/proc/self/status").find("Pid:"), std::string::npos); }

TEST(File, MissingFileNamesPathAndReason) {
  EXPECT_TRUE(throws_error([] { read_file("/no/such/file"); }, ErrorKind::kIo, "/no/such/file", "No such file or directory"));
  EXPECT_TRUE(throws_error([] { MappedFile("/no/such/file"); }, ErrorKind::kIo, "/no/such/file", "No such file or directory"));
  EXPECT_TRUE(throws_error([] { MappedFile("/tmp"); }, ErrorKind::kIo, "/tmp", "regular file"));
  EXPECT_TRUE(throws_error([] { read_file("/tmp"); }, ErrorKind::kIo, "/tmp", "directory"));
}

// A write that fails half way (here: the process's file size limit) removes its temporary file and keeps the old content.
TEST(File, FailedWriteKeepsTheOldFile) {
  const TempFolder folder;
  atomic_write(folder / "f", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit = {4096, 4096};
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      atomic_write(folder / "f", std::string(100'000, 'x'));
    } catch (const Error& error) {
      ::_exit(error.kind() == ErrorKind::kIo && std::string(error.what()).find("File too large") != std::string::npos ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(names_in(folder.path()).size(), 1u);
}

TEST(Log, LineHasAreaAndLevel) {
  const LogCapture capture;
  log_warning("cache", "{} of {}", 1, 2);
  log_info("jit", "ready");
  EXPECT_EQ(capture.lines(), (std::vector<std::string>{"# cache: warning: 1 of 2", "# jit: ready"}));
}

TEST(Log, LinesAboveTheLevelAreDropped) {
  const LogCapture capture;
  set_log_level(LogLevel::kWarning);
  log_info("jit", "dropped");
  log_debug("jit", "dropped");
  log_warning("jit", "kept");
  set_log_level(LogLevel::kInfo);
  EXPECT_EQ(capture.lines().size(), 1u);
}

TEST(ProgressBar, DrawsNothingWithoutATerminal) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar("compile", 3);
    for (int i = 0; i < 3; ++i) bar.add(1, "x");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ParallelFor, RunsEveryIndexOnce) {
  std::vector<std::atomic<int>> counts(1000);
  parallel_for(counts.size(), 4, [&](uint64_t i) { ++counts[i]; });
  for (const auto& count : counts) EXPECT_EQ(count, 1);
}

TEST(ParallelFor, UsesTheThreadsAskedFor) {
  // Each job waits until all three are running: fewer threads would never get past the barrier.
  std::atomic<int> n_running{0};
  parallel_for(3, 3, [&](uint64_t) {
    ++n_running;
    while (n_running < 3) std::this_thread::yield();
  });
  EXPECT_EQ(n_running, 3);
}

TEST(ParallelFor, RethrowsTheFirstErrorAndStops) {
  std::atomic<int> n_started{0};
  EXPECT_TRUE(throws_error(
      [&] {
        parallel_for(1'000'000, 2, [&](uint64_t i) {
          ++n_started;
          if (i == 5) throw Error(ErrorKind::kIo, "job 5");
        });
      },
      ErrorKind::kIo, "job 5"));
  EXPECT_LT(n_started, 1'000'000);
}

TEST(ParallelFor, NoJobsIsFine) {
  parallel_for(0, 0, [](uint64_t) { FAIL(); });
  EXPECT_GE(n_usable_cores(), 1u);
}

}  // namespace
}  // namespace sj::base_test
