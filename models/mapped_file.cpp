#include "models/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

[[noreturn]] void fail_io(const std::string& path, std::string_view what) {
  throw Error(ErrorKind::kIo, fmt::format("{}: {}", path, what));
}

std::string_view kind_of_file(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a fifo";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISSOCK(mode)) return "a socket";
  return "not a regular file";
}

// The mappings that the SIGBUS handler may explain. Fixed and lock-free, because a signal handler reads it.
struct GuardedRange {
  std::atomic<uintptr_t> begin{0};   // 0: free
  std::atomic<uintptr_t> end{0};
  std::array<char, 512> path{};      // written before `begin`
};
std::array<GuardedRange, 256> g_ranges;
std::atomic<bool> g_claim{false};
struct sigaction g_previous_action;

class RangeLock {
 public:
  RangeLock() { while (g_claim.exchange(true, std::memory_order_acquire)) {} }
  ~RangeLock() { g_claim.store(false, std::memory_order_release); }
};

void register_range(const std::byte* data, uint64_t size, const std::string& path) {
  const RangeLock lock;
  for (GuardedRange& range : g_ranges) {
    if (range.begin.load() != 0) continue;
    const size_t n = std::min(path.size(), range.path.size() - 1);
    std::memcpy(range.path.data(), path.data(), n);
    range.path[n] = 0;
    range.end.store(reinterpret_cast<uintptr_t>(data) + size);
    range.begin.store(reinterpret_cast<uintptr_t>(data));
    return;
  }
}

void unregister_range(const std::byte* data) {
  const RangeLock lock;
  for (GuardedRange& range : g_ranges)
    if (range.begin.load() == reinterpret_cast<uintptr_t>(data)) range.begin.store(0);
}

// write(2) and _exit(2) only: everything else is forbidden inside a signal handler.
void put(const char* text, size_t n) { [[maybe_unused]] const ssize_t done = ::write(STDERR_FILENO, text, n); }
void put(const char* text) { put(text, std::strlen(text)); }

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const GuardedRange& range : g_ranges) {
    const uintptr_t begin = range.begin.load();
    if (begin == 0 || address < begin || address >= range.end.load()) continue;
    std::array<char, 24> digits;
    size_t at = digits.size();
    for (uintptr_t v = address - begin; at > 0 && (v != 0 || at == digits.size()); v /= 10)
      digits[--at] = static_cast<char>('0' + v % 10);
    put("\nsparkjit: error: the file was cut short or could not be read while in use [offset ");
    put(digits.data() + at, digits.size() - at);
    put("; file ");
    put(range.path.data());
    put("]\n");
    ::_exit(static_cast<int>(ErrorKind::kIo));
  }
  if ((g_previous_action.sa_flags & SA_SIGINFO) != 0) return g_previous_action.sa_sigaction(signal, info, context);
  if (g_previous_action.sa_handler != SIG_DFL && g_previous_action.sa_handler != SIG_IGN)
    return g_previous_action.sa_handler(signal);
  ::signal(SIGBUS, SIG_DFL);   // the faulting instruction runs again and ends the process as usual
}

}  // namespace

MappedModelFile::MappedModelFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a fifo without a writer must not hang.
  fd_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd_ < 0) fail_io(path, fmt::format("can't open the file: {}", std::strerror(errno)));
  struct stat info {};
  if (::fstat(fd_, &info) != 0) {
    const std::string reason = std::strerror(errno);
    close();
    fail_io(path, fmt::format("can't read the file's size: {}", reason));
  }
  if (!S_ISREG(info.st_mode)) {
    close();
    fail_io(path, fmt::format("expected a regular file, found {}", kind_of_file(info.st_mode)));
  }
  size_ = static_cast<uint64_t>(info.st_size);
  device_ = info.st_dev;
  inode_ = info.st_ino;
  mtime_s_ = info.st_mtim.tv_sec;
  mtime_ns_ = info.st_mtim.tv_nsec;
  if (size_ == 0) return;
  void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
  if (mapping == MAP_FAILED) {
    const std::string reason = std::strerror(errno);
    close();
    fail_io(path, fmt::format("can't map the file's {} bytes: {}", size_, reason));
  }
  data_ = static_cast<const std::byte*>(mapping);
  register_range(data_, size_, path_);
}

MappedModelFile::MappedModelFile(MappedModelFile&& other) noexcept { *this = std::move(other); }

MappedModelFile& MappedModelFile::operator=(MappedModelFile&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  fd_ = std::exchange(other.fd_, -1);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  device_ = other.device_;
  inode_ = other.inode_;
  mtime_s_ = other.mtime_s_;
  mtime_ns_ = other.mtime_ns_;
  return *this;
}

MappedModelFile::~MappedModelFile() { close(); }

void MappedModelFile::close() {
  if (data_ != nullptr) {
    unregister_range(data_);
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
  if (fd_ >= 0) ::close(fd_);
  data_ = nullptr;
  size_ = 0;
  fd_ = -1;
}

void MappedModelFile::require_unchanged() const {
  struct stat now {};
  if (::stat(path_.c_str(), &now) != 0) fail_io(path_, fmt::format("the file vanished while it was in use: {}", std::strerror(errno)));
  if (now.st_dev != device_ || now.st_ino != inode_) fail_io(path_, "the file was replaced by another one while it was in use");
  if (static_cast<uint64_t>(now.st_size) != size_)
    fail_io(path_, fmt::format("the file's size changed from {} to {} bytes while it was in use", size_, now.st_size));
  if (now.st_mtim.tv_sec != mtime_s_ || now.st_mtim.tv_nsec != mtime_ns_)
    fail_io(path_, "the file was written to while it was in use");
}

void guard_mapped_files() {
  static std::atomic<bool> installed{false};
  if (installed.exchange(true)) return;
  struct sigaction action {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &g_previous_action);
}

}  // namespace sj
