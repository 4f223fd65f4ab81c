// GGUF files for tests: raw records that may break any rule, and small valid files on disk.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include "models/gguf_writer.h"

namespace sj::test {

template <class T>
std::string le(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

inline std::string gguf_text(std::string_view text) { return le<uint64_t>(text.size()) + std::string(text); }

/// "GGUF", version, counts: 24 bytes.
inline std::string gguf_head(int64_t n_tensors, int64_t n_keys, uint32_t version = 3) {
  return "GGUF" + le(version) + le(n_tensors) + le(n_keys);
}

/// A metadata record with the value's bytes as they are.
inline std::string gguf_key(std::string_view key, uint32_t type, std::string_view value) {
  return gguf_text(key) + le(type) + std::string(value);
}

/// An array's value bytes: element type, count, elements as they are.
inline std::string gguf_array(uint32_t element_type, uint64_t count, std::string_view elements) {
  return le(element_type) + le(count) + std::string(elements);
}

/// A tensor record; `dims` fastest first, as the file has them.
inline std::string gguf_tensor(std::string_view name, const std::vector<int64_t>& dims, uint32_t type, uint64_t offset) {
  std::string out = gguf_text(name) + le(static_cast<uint32_t>(dims.size()));
  for (const int64_t dim : dims) out += le(dim);
  return out + le(type) + le(offset);
}

/// Zero bytes up to a multiple of `alignment`.
inline std::string padded(std::string bytes, size_t alignment = 32) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
  return bytes;
}

/// A folder of its own that vanishes with the object.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sparkjit-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + pattern);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Writes `bytes` to `name` in the folder; returns the file's path.
  std::string write(const std::string& name, std::string_view bytes) const {
    const std::string file = (path_ / name).string();
    std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return file;
  }

 private:
  std::filesystem::path path_;
};

/// The writer's file as bytes; `data_of(tensor)` gives a tensor's bytes (cut or zero-filled to its size).
template <class DataOf>
std::string gguf_bytes(const GgufWriter& writer, const DataOf& data_of) {
  std::string out = writer.header();
  out.resize(writer.file_bytes(), '\0');
  for (const TensorInfo& tensor : writer.tensors()) {
    const std::string data = data_of(tensor);
    std::memcpy(out.data() + tensor.file_offset, data.data(), std::min<uint64_t>(data.size(), tensor.n_bytes));
  }
  return out;
}

inline std::string gguf_bytes(const GgufWriter& writer) {
  return gguf_bytes(writer, [](const TensorInfo&) { return std::string(); });
}

}  // namespace sj::test
