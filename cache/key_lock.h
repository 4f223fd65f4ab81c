// Across processes: only one compiles a key. Advisory, bounded and local: a lock is never in the cache folder (which may be
// on a network), is freed by the kernel when its holder dies, and a process that can't get it in time compiles anyway.
#pragma once

#include <string>

namespace sj {

class KeyLock {
 public:
  /// Waits at most `timeout_us` for the lock of `key` in `lock_dir` (created with mode 0700 if need be). An empty
  /// `lock_dir`, or one that can't be used or belongs to another user, gives an object that holds nothing.
  KeyLock(const std::string& lock_dir, const std::string& key, int64_t timeout_us);
  KeyLock(const KeyLock&) = delete;
  KeyLock& operator=(const KeyLock&) = delete;
  ~KeyLock();
  bool is_held() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

}  // namespace sj
