#include "jit/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr std::string_view kTemporaryMark = ".tmp-";

/// A file descriptor that closes itself.
class OpenFile {
 public:
  OpenFile(const std::string& path, int flags, mode_t mode = 0) : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd() const { return fd_; }
  /// Result of close(), which reports late write errors on network file systems.
  int close_now() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

[[noreturn]] void throw_io(std::string_view verb, const std::string& path, int error_number) {
  throw Error(ErrorKind::kIo, fmt::format("can't {} {}: {}", verb, path, errno_text(error_number)));
}

void write_all(int fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io("write", path, errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

}  // namespace

std::string errno_text(int error_number) { return std::generic_category().message(error_number); }

bool is_temporary_name(std::string_view file_name) { return file_name.find(kTemporaryMark) != std::string_view::npos; }

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const OpenFile file(path, O_RDONLY);
  if (file.fd() < 0) throw_io("open", path, errno);
  struct stat info = {};
  if (::fstat(file.fd(), &info) != 0) throw_io("examine", path, errno);
  if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::kIo, fmt::format("can't map {}: not a regular file", path));
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (data == MAP_FAILED) throw_io("map", path, errno);
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    path_ = std::move(other.path_);
  }
  return *this;
}

MappedFile::~MappedFile() { release(); }

void MappedFile::release() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
}

std::string read_file(const std::string& path) {
  const OpenFile file(path, O_RDONLY);
  if (file.fd() < 0) throw_io("open", path, errno);
  struct stat info = {};
  if (::fstat(file.fd(), &info) == 0 && S_ISDIR(info.st_mode)) throw_io("read", path, EISDIR);
  std::string text(static_cast<size_t>(info.st_size > 0 ? info.st_size : 0) + 1, '\0');
  size_t n_read = 0;
  while (true) {
    if (n_read == text.size()) text.resize(text.size() * 2);
    const ssize_t n = ::read(file.fd(), text.data() + n_read, text.size() - n_read);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io("read", path, errno);
    if (n == 0) break;
    n_read += static_cast<size_t>(n);
  }
  text.resize(n_read);
  return text;
}

void atomic_write(const std::string& path, std::span<const std::byte> bytes, unsigned mode) {
  static std::atomic<uint64_t> n_written{0};
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const std::string temporary = fmt::format("{}{}{}-{}", path, kTemporaryMark, ::getpid(), n_written++);
  OpenFile file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, static_cast<mode_t>(mode));
  if (file.fd() < 0) throw_io("create", temporary, errno);
  try {
    write_all(file.fd(), bytes, temporary);
    if (::fsync(file.fd()) != 0) throw_io("flush", temporary, errno);
    if (file.close_now() != 0) throw_io("close", temporary, errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw_io("publish", path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  // The rename is what readers see; that it survives a power failure is worth an attempt, not an error.
  const OpenFile directory(folder, O_RDONLY | O_DIRECTORY);
  if (directory.fd() >= 0 && ::fsync(directory.fd()) != 0) return;
}

void atomic_write(const std::string& path, std::string_view text, unsigned mode) {
  atomic_write(path, std::as_bytes(std::span(text.data(), text.size())), mode);
}

}  // namespace sj
