// A regular file, opened once and mapped read-only. In: a path. Out: its bytes and its descriptor.
// Called by open_gguf only; everything above it sees spans.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace sj {

class MappedModelFile {
 public:
  /// Opens without ever blocking (a fifo is refused, not waited for). Throws kIo: missing, unreadable, not a regular
  /// file, or not mappable. An empty file maps to an empty span.
  explicit MappedModelFile(const std::string& path);
  MappedModelFile(MappedModelFile&& other) noexcept;
  MappedModelFile& operator=(MappedModelFile&& other) noexcept;
  ~MappedModelFile();

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Throws kIo when the file at path() is no longer the one that was opened, or its size or modification time changed:
  /// what was read from the mapping is then worth nothing.
  void require_unchanged() const;

 private:
  void close();

  std::string path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  uint64_t device_ = 0, inode_ = 0;
  int64_t mtime_s_ = 0, mtime_ns_ = 0;
};

/// Installs a SIGBUS handler, once a process: a fault inside any MappedModelFile (the file was cut short while mapped, or the
/// disk failed) prints one line with the file and the offset and ends the process with the kIo exit code; every other
/// SIGBUS goes to the handler that was there before. Called by main, never by the library on its own.
void guard_mapped_files();

}  // namespace sj
