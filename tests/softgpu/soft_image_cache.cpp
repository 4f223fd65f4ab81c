#include "softgpu/soft_image_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

namespace softgpu {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostEntries = 3000;

/// FNV-1a. Only a file name: the key inside the entry decides.
fs::path entry_path(const std::string& key) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : key) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  char name[32];
  std::snprintf(name, sizeof name, "%016llx.image", static_cast<unsigned long long>(hash));
  return fs::path(image_cache_folder()) / name;
}

/// Changed device text leaves its old images behind: once a process, the older half goes when there are too many.
void forget_oldest() {
  static std::atomic<bool> is_done = false;
  if (is_done.exchange(true)) return;
  std::error_code ec;
  std::vector<std::pair<fs::file_time_type, fs::path>> entries;
  for (const fs::directory_entry& entry : fs::directory_iterator(image_cache_folder(), ec))
    entries.emplace_back(entry.last_write_time(ec), entry.path());
  if (entries.size() <= kMostEntries) return;
  std::sort(entries.begin(), entries.end());
  for (size_t i = 0; i < entries.size() / 2; ++i) fs::remove(entries[i].second, ec);
}

}  // namespace

std::string image_cache_folder() {
  const char* const chosen = std::getenv("SOFTNVRTC_CACHE");
  const std::string folder = chosen != nullptr ? chosen : SOFTNVRTC_CACHE;
  return folder == "none" ? "" : folder;
}

std::optional<std::string> find_image(const std::string& key) {
  if (image_cache_folder().empty()) return std::nullopt;
  const fs::path path = entry_path(key);
  std::error_code ec;
  const uint64_t n_entry = fs::file_size(path, ec);
  std::string entry(ec ? 0 : n_entry, '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(entry.data(), static_cast<std::streamsize>(entry.size()))) return std::nullopt;
  // The key, the image, the image's size: a file that was cut short ends in another number.
  uint64_t n_bytes = 0;
  if (entry.size() <= key.size() + sizeof n_bytes || entry.compare(0, key.size(), key) != 0) return std::nullopt;
  entry.copy(reinterpret_cast<char*>(&n_bytes), sizeof n_bytes, entry.size() - sizeof n_bytes);
  if (n_bytes != entry.size() - sizeof n_bytes - key.size()) return std::nullopt;
  fs::last_write_time(path, fs::file_time_type::clock::now(), ec);
  return entry.substr(key.size(), n_bytes);
}

void keep_image(const std::string& key, const std::string& image) {
  if (image_cache_folder().empty()) return;
  std::error_code ec;
  fs::create_directories(image_cache_folder(), ec);
  forget_oldest();
  const fs::path path = entry_path(key);
  static std::atomic<unsigned> n_written = 0;
  const fs::path scratch = path.string() + "." + std::to_string(::getpid()) + "." + std::to_string(++n_written);
  const uint64_t n_bytes = image.size();
  std::ofstream out(scratch, std::ios::binary);
  out << key << image;
  out.write(reinterpret_cast<const char*>(&n_bytes), sizeof n_bytes);
  out.close();
  if (out) fs::rename(scratch, path, ec);
  if (!out || ec) fs::remove(scratch, ec);
}

}  // namespace softgpu
