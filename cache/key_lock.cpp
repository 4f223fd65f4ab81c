#include "cache/key_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

namespace sj {
namespace {

/// A lock in a folder of somebody else could be held for ever, or be a link to a file of ours.
bool is_usable_folder(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return false;
  struct stat info = {};
  return ::lstat(dir.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == ::geteuid() && (info.st_mode & 022) == 0;
}

}  // namespace

KeyLock::KeyLock(const std::string& lock_dir, const std::string& key, int64_t timeout_us) {
  if (lock_dir.empty() || !is_usable_folder(lock_dir)) return;
  // Files are never deleted (deleting one that somebody waits for would give two holders), so their number is bounded: keys
  // share 4096 files. Sharing costs a wait, never correctness: a thread holds one lock at a time.
  const std::string path = lock_dir + "/" + key.substr(0, 3) + ".lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + std::chrono::microseconds(timeout_us);
  std::chrono::microseconds pause(500);
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if ((errno != EWOULDBLOCK && errno != EINTR) || Clock::now() >= deadline) {
      ::close(fd);
      return;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(20'000));
  }
  fd_ = fd;
}

KeyLock::~KeyLock() {
  if (fd_ >= 0) ::close(fd_);  // closing the only descriptor frees the lock
}

}  // namespace sj
