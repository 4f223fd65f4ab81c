// System calls that fail or kill, in a child process: what bad disks and sudden ends do to writers.
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstdint>
#include <iterator>
#include <vector>

#include "jit/base/error.h"

namespace sj::test {

/// Exit code of a child for "this system does not let a process filter its system calls".
inline constexpr int kSkipped = 77;

/// UBSan asks the kernel whether an object of a type that is new to it may be read, by writing it into a pipe: without that write
/// it would take the first Error for a wild pointer, and end the process without a word. It remembers the types it has met.
inline bool meet_errors() {
  try {
    throw Error(ErrorKind::kIo, "met");
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kIo;
  }
}

/// From now on the kernel answers `call` with `action` (SECCOMP_RET_ERRNO | errno, or SECCOMP_RET_KILL_PROCESS) in this process.
inline bool sabotage(long call, uint32_t action) {
#if defined(__x86_64__)
  constexpr uint32_t kArch = AUDIT_ARCH_X86_64;
#else
  constexpr uint32_t kArch = AUDIT_ARCH_AARCH64;
#endif
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArch, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = std::size(program), .filter = program};
  return meet_errors() && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

struct Call {
  const char* name;
  std::vector<long> numbers;   ///< whichever the C library uses
};
/// What makes a file visible to others, in order.
inline const std::vector<Call>& publish_calls() {
  static const std::vector<Call> calls = {
      {"openat", {SYS_openat}}, {"write", {SYS_write}}, {"fsync", {SYS_fsync}}, {"close", {SYS_close}},
#if defined(SYS_rename)
      {"rename", {SYS_rename, SYS_renameat, SYS_renameat2}},
#else
      {"rename", {SYS_renameat, SYS_renameat2}},
#endif
  };
  return calls;
}

}  // namespace sj::test
