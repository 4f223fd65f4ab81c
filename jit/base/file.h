// Files: mapped and whole reads, and writes that other processes see completely or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sj {

/// A read-only mapping of a whole file. The bytes stay valid as long as the object lives, also when the file is unlinked.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws kIo naming the path and the system's reason.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  void release() noexcept;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

/// Whole content. Throws kIo.
std::string read_file(const std::string& path);

/// Writes `bytes` to `path`: a temporary file in the same folder, every write checked, fsync, rename over `path`, fsync of
/// the folder. A reader sees the old content, the new content or no file. Permissions: `mode`, less what
/// the umask forbids. Throws kIo; the temporary file is removed then.
void atomic_write(const std::string& path, std::span<const std::byte> bytes, unsigned mode = 0600);
void atomic_write(const std::string& path, std::string_view text, unsigned mode = 0600);

/// True for a name that atomic_write gives to its temporary files.
bool is_temporary_name(std::string_view file_name);

/// Reason of the last failed system call, for messages: "No such file or directory".
std::string errno_text(int error_number);

}  // namespace sj
