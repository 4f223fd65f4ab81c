// The store on bad disks: read-only, full, owned by others, and killed at any moment. Faults are real: a process without the
// right to write, a tmpfs that is too small, SIGKILL.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "cache/cubin_store.h"
#include "jit/base/file.h"
#include "tests/cache/fake_cubin.h"
#include "tests/support/child.h"
#include "tests/support/syscall_faults.h"
#include "tests/support/temp_folder.h"

namespace sj::store_faults_test {
namespace {

using test::fake_cubin;
using test::fake_key;
using test::kSkipped;
using test::LogCapture;
using test::publish_calls;
using test::run_in_child;
using test::sabotage;
using test::TempFolder;

/// The user that this process may act as without root's rights.
bool become_ordinary_user() { return ::geteuid() != 0 || ::seteuid(65534) == 0; }

TEST(StoreFaults, NoFolderMeansMemoryOnly) {
  const LogCapture capture;
  CubinStore store("");
  EXPECT_FALSE(store.has_disk());
  EXPECT_FALSE(store.insert(fake_key(1), fake_cubin("sj_x")));
  EXPECT_FALSE(store.find(fake_key(1)));
  EXPECT_TRUE(store.entries().empty());
  EXPECT_EQ(store.collect_garbage(0) + store.clear(), 0u);
  EXPECT_EQ(capture.lines().size(), 1u);
  EXPECT_EQ(capture.n_with("kept in memory only"), 1u);
}

TEST(StoreFaults, ReadOnlyFolderIsReadAndNotWritten) {
  const TempFolder folder;
  EXPECT_EQ(run_in_child([&] {
              if (::geteuid() == 0 && ::chown(folder.path().c_str(), 65534, 65534) != 0) return kSkipped;
              if (!become_ordinary_user()) return kSkipped;
              const std::string dir = folder / "cache";
              if (!CubinStore(dir).insert(fake_key(1), fake_cubin("sj_x"))) return 1;
              ::chmod(dir.c_str(), 0500);
              const LogCapture capture;
              CubinStore store(dir);
              if (!store.find(fake_key(1))) return 2;
              if (store.insert(fake_key(2), fake_cubin("sj_x")) || store.insert(fake_key(3), fake_cubin("sj_x"))) return 3;
              if (capture.lines().size() != 1 || capture.n_with("can't be written: Permission denied") != 1) return 4;
              return store.can_write() || store.problem().empty() ? 5 : 0;
            }),
            0);
}

TEST(StoreFaults, FolderThatCanNotBeMadeMeansMemoryOnly) {
  const LogCapture capture;
  CubinStore store("/proc/no/such");
  EXPECT_FALSE(store.has_disk());
  EXPECT_EQ(capture.n_with("/proc/no/such can't be made"), 1u);
}

TEST(StoreFaults, FolderOfSomebodyElseIsRefused) {
  const LogCapture capture;
  const TempFolder folder;
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(folder.path().c_str(), 12345, 12345), 0);
    CubinStore store(folder.path());
    EXPECT_FALSE(store.has_disk());
    EXPECT_EQ(capture.n_with("is owned by uid 12345, not by uid 0"), 1u);
    EXPECT_FALSE(store.insert(fake_key(1), fake_cubin("sj_x")));
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  } else {
    EXPECT_FALSE(CubinStore("/usr").has_disk());
    EXPECT_EQ(capture.n_with("is owned by uid 0"), 1u);
  }
}

TEST(StoreFaults, FolderThatOthersCanWriteIsRefused) {
  const LogCapture capture;
  const TempFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0777), 0);
  EXPECT_FALSE(CubinStore(folder.path()).has_disk());
  EXPECT_EQ(capture.n_with("can be written by others (mode 0777)"), 1u);
}

TEST(StoreFaults, SymbolicLinkIsRefused) {
  const LogCapture capture;
  const TempFolder folder;
  std::filesystem::create_directory(folder / "real");
  std::filesystem::create_directory_symlink(folder / "real", folder / "link");
  EXPECT_FALSE(CubinStore(folder / "link").has_disk());
  EXPECT_EQ(capture.n_with("is a symbolic link"), 1u);
}

TEST(StoreFaults, FullDiskMeansOneWarningAndNoDamage) {
  const TempFolder folder;
  const int result = run_in_child([&] {
    // A name space of our own in which a file system of 256 KiB can be mounted without privilege.
    const std::string user = std::to_string(::geteuid()), group = std::to_string(::getegid());
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return kSkipped;
    std::ofstream("/proc/self/uid_map") << "0 " << user << " 1\n";
    std::ofstream("/proc/self/setgroups") << "deny\n";
    std::ofstream("/proc/self/gid_map") << "0 " << group << " 1\n";
    if (::geteuid() != 0) return kSkipped;
    if (::mount("none", folder.path().c_str(), "tmpfs", 0, "size=256k,mode=0700") != 0) return kSkipped;
    const LogCapture capture;
    CubinStore store(folder / "cache");
    uint32_t n_stored = 0;
    for (uint32_t i = 1; i <= 30; ++i) n_stored += store.insert(fake_key(i), fake_cubin("sj_x", 20'000)) ? 1 : 0;
    if (n_stored == 0 || n_stored == 30) {
      for (const std::string& line : capture.lines()) std::fprintf(stderr, "%s\n", line.c_str());
      return 1;
    }
    if (capture.lines().size() != 1 || capture.n_with("No space left on device") != 1) return 2;
    for (uint32_t i = 1; i <= n_stored; ++i)
      if (!store.find(fake_key(i))) return 3;
    if (store.verify().damaged.size() != 0 || store.stats().n_entries != n_stored) return 4;
    for (const auto& item : std::filesystem::recursive_directory_iterator(folder.path()))
      if (is_temporary_name(item.path().filename().string())) return 5;
    return 0;
  });
  if (result == kSkipped) GTEST_SKIP() << "this system does not allow a mount in a user name space";
  EXPECT_EQ(result, 0);
}

/// Entry 1 is there; a child inserts entry 2 while the kernel answers each of `call` with `action`. 0: refused with one warning.
int insert_with(const std::string& dir, const test::Call& call, uint32_t action) {
  return run_in_child([&] {
    const LogCapture capture;
    CubinStore store(dir);
    for (const long number : call.numbers)
      if (!sabotage(number, action)) return kSkipped;
    if (store.insert(fake_key(2), fake_cubin("sj_b"))) return 1;
    return capture.lines().size() == 1 ? 0 : 2;
  });
}

/// Whoever comes next finds entry 1 and no damage, and can publish entry 2.
void expect_repairable(const std::string& dir, const char* call) {
  const LogCapture capture;
  CubinStore store(dir);
  EXPECT_TRUE(store.find(fake_key(1))) << call;
  EXPECT_TRUE(store.verify().damaged.empty()) << call;
  EXPECT_TRUE(store.insert(fake_key(2), fake_cubin("sj_b"))) << call;
  EXPECT_EQ(store.find(fake_key(2)).value().bytes, fake_cubin("sj_b").bytes) << call;
  EXPECT_EQ(capture.lines().size(), 0u) << call;
}

TEST(StoreFaults, EachSystemCallThatFailsIsOneWarningAndLeavesTheStoreWhole) {
  for (const test::Call& call : publish_calls())
    for (const int error : {ENOSPC, EIO}) {
      const TempFolder folder;
      CubinStore(folder / "cache").insert(fake_key(1), fake_cubin("sj_a"));
      const int result = insert_with(folder / "cache", call, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error));
      if (result == kSkipped) GTEST_SKIP() << "this system does not let a process filter its system calls";
      EXPECT_EQ(result, 0) << call.name << ": " << errno_text(error);
      for (const auto& item : std::filesystem::recursive_directory_iterator(folder.path()))
        EXPECT_FALSE(is_temporary_name(item.path().filename().string())) << call.name << ": " << item.path();
      expect_repairable(folder / "cache", call.name);
    }
}

TEST(StoreFaults, DeathAtEachSystemCallLeavesTheStoreWhole) {
  for (const test::Call& call : publish_calls()) {
    const TempFolder folder;
    CubinStore(folder / "cache").insert(fake_key(1), fake_cubin("sj_a"));
    const int result = insert_with(folder / "cache", call, SECCOMP_RET_KILL_PROCESS);
    if (result == kSkipped) GTEST_SKIP() << "this system does not let a process filter its system calls";
    EXPECT_EQ(result, 1000 + SIGSYS) << call.name;
    expect_repairable(folder / "cache", call.name);
  }
}

// A writer is killed at 500 random moments; after each the store holds whole entries only, and the next writer goes on.
TEST(StoreFaults, KilledAtAnyMomentNothingIsDamaged) {
  constexpr int kKills = 500;
  constexpr uint32_t kEntries = 40;
  // A file system in memory: more writes between two kills, and what a process has written is as lasting there as on a disk.
  const TempFolder folder(std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp");
  const LogCapture capture;
  std::mt19937 random(7);  // fixed seed: the moments differ by scheduling alone
  uint64_t n_found_in_all = 0;
  for (int kill_idx = 0; kill_idx < kKills; ++kill_idx) {
    const std::string dir = folder / ("cache" + std::to_string(kill_idx / 10));  // ten writers a folder: restarts are part of it
    const pid_t child = ::fork();
    if (child == 0) {
      CubinStore store(dir, 300'000);  // small: eviction is part of it
      for (uint32_t i = 1;; i = i % kEntries + 1) store.insert(fake_key(i), fake_cubin("sj_x", 10'000));
    }
    ::usleep(static_cast<useconds_t>(random() % 8'000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    CubinStore store(dir);
    uint32_t n_found = 0;
    for (uint32_t i = 1; i <= kEntries; ++i) n_found += store.find(fake_key(i)) ? 1 : 0;
    ASSERT_EQ(store.stats().n_quarantined, 0u) << "kill " << kill_idx;
    n_found_in_all += n_found;
    ASSERT_TRUE(store.insert(fake_key(kEntries + 1), fake_cubin("sj_x")));
  }
  EXPECT_EQ(capture.lines().size(), 0u);
  EXPECT_GT(n_found_in_all, 500u) << "the writers hardly wrote: the test shows nothing";
}

}  // namespace
}  // namespace sj::store_faults_test
