// Finds the golden models: X.gguf, X.tokens.i32 (raw int32 ids) and X.logits.f32 (raw float32, [n_tokens, n_vocab]).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace sj::test {

/// SPARKJIT_GOLDENS, or ../shared/goldens beside the source tree; empty when neither exists.
inline std::string goldens_dir() {
  if (const char* dir = std::getenv("SPARKJIT_GOLDENS")) return dir;
#ifdef SPARKJIT_SOURCE_DIR
  const std::filesystem::path beside = std::filesystem::path(SPARKJIT_SOURCE_DIR) / "../shared/goldens";
  if (std::filesystem::is_directory(beside)) return beside.string();
#endif
  return {};
}

template <class T>
std::vector<T> read_raw(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  std::vector<T> data(in ? static_cast<size_t>(in.tellg()) / sizeof(T) : 0);
  in.seekg(0);
  in.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size() * sizeof(T)));
  return data;
}

}  // namespace sj::test
