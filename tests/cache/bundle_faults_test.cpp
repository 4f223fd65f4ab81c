// Writing a bundle on bad disks and with sudden ends: whoever reads finds the old one, the new one or none, and always a whole one.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <random>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "tests/cache/bundle_bytes.h"
#include "tests/support/child.h"
#include "tests/support/syscall_faults.h"
#include "tests/support/temp_folder.h"

namespace sj::bundle_faults_test {
namespace {

using test::Call;
using test::fake_key;
using test::kSkipped;
using test::publish_calls;
using test::run_in_child;
using test::sabotage;
using test::small_content;
using test::TempFolder;

/// The old bundle has 2 entries, the new one 3.
void expect_whole(const std::string& path, uint64_t n_entries) {
  const Bundle bundle = Bundle::open(path);
  EXPECT_EQ(bundle.n_entries(), n_entries);
  for (uint64_t i = 0; i < bundle.n_entries(); ++i) EXPECT_TRUE(bundle.find(bundle.entry_key(i)));
}

class BundleFaults : public testing::Test {
 protected:
  void SetUp() override { atomic_write(path_, small_content(2).encode(nullptr), 0644); }
  /// What writing the new bundle came to when the kernel answers each of `call` with `action`.
  int write_with(const Call& call, uint32_t action) {
    const std::vector<std::byte> file = small_content(3).encode(nullptr);
    return run_in_child([&] {
      for (const long number : call.numbers)
        if (!sabotage(number, action)) return kSkipped;
      try {
        atomic_write(path_, file, 0644);
      } catch (const Error& error) {
        return error.kind() == ErrorKind::kIo ? 3 : 4;
      }
      return 0;
    });
  }
  size_t n_files() const {
    size_t n = 0;
    for (const auto& item : std::filesystem::directory_iterator(folder_.path())) n += item.is_regular_file() ? 1 : 0;
    return n;
  }
  // A file system in memory: more writes between two kills, and what a process has written is as lasting there as on a disk.
  TempFolder folder_{std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp"};
  std::string path_ = folder_ / "b.skb";
};

TEST_F(BundleFaults, EachSystemCallThatFailsLeavesTheOldBundle) {
  for (const Call& call : publish_calls())
    for (const int error : {ENOSPC, EIO}) {
      const int result = write_with(call, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error));
      if (result == kSkipped) GTEST_SKIP() << "this system does not let a process filter its system calls";
      EXPECT_EQ(result, 3) << call.name << ": " << errno_text(error);
      expect_whole(path_, 2);
      EXPECT_EQ(n_files(), 1u) << call.name << ": a temporary file is left over";
    }
}

TEST_F(BundleFaults, DeathAtEachSystemCallLeavesTheOldBundle) {
  for (const Call& call : publish_calls()) {
    const int result = write_with(call, SECCOMP_RET_KILL_PROCESS);
    if (result == kSkipped) GTEST_SKIP() << "this system does not let a process filter its system calls";
    EXPECT_EQ(result, 1000 + SIGSYS) << call.name;
    expect_whole(path_, 2);
  }
  // What the dead left over stands in nobody's way.
  atomic_write(path_, small_content(3).encode(nullptr), 0644);
  expect_whole(path_, 3);
}

TEST_F(BundleFaults, KilledAtAnyMomentTheBundleIsWhole) {
  constexpr int kKills = 100;
  std::mt19937 random(7);
  const std::vector<std::byte> small = small_content(2, 200'000).encode(nullptr), large = small_content(3, 200'000).encode(nullptr);
  uint64_t n_large = 0;
  for (int kill_idx = 0; kill_idx < kKills; ++kill_idx) {
    const pid_t child = ::fork();
    if (child == 0)
      for (bool is_large = false;; is_large = !is_large) atomic_write(path_, is_large ? large : small, 0644);
    ::usleep(static_cast<useconds_t>(random() % 4'000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    const Bundle bundle = Bundle::open(path_);
    for (uint64_t i = 0; i < bundle.n_entries(); ++i) ASSERT_TRUE(bundle.find(bundle.entry_key(i))) << kill_idx;
    n_large += bundle.n_entries() == 3 ? 1 : 0;
  }
  EXPECT_GT(n_large, 5u) << "the writers hardly wrote: the test shows nothing";
  EXPECT_LT(n_large, static_cast<uint64_t>(kKills));
}

TEST_F(BundleFaults, OthersMayReadIt) {
  const mode_t before = ::umask(022);
  atomic_write(path_, small_content(3).encode(nullptr), 0644);
  ::umask(before);
  struct stat info = {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u);
}

}  // namespace
}  // namespace sj::bundle_faults_test
