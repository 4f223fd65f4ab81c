#include "cache/cubin_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <ctime>
#include <filesystem>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/base/log.h"

namespace sj {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".cubin";
constexpr int64_t kTouchEveryS = 3600, kYoungS = 60, kTemporaryLifeS = 3600, kQuarantineLifeS = 7 * 24 * 3600;

bool is_key(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

int64_t now_s() { return static_cast<int64_t>(std::time(nullptr)); }

/// Why a folder or file can't be trusted with code; empty when it can.
std::string trust_problem(const struct stat& info) {
  if (info.st_uid != ::geteuid()) return fmt::format("is owned by uid {}, not by uid {}", info.st_uid, ::geteuid());
  if ((info.st_mode & 022) != 0) return fmt::format("can be written by others (mode {:04o})", info.st_mode & 07777);
  return {};
}

/// Creates `dir` with mode 0700 if need be; empty when it is a folder of ours.
std::string prepare_folder(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return fmt::format("can't be made: {}", errno_text(errno));
  struct stat info = {};
  if (::lstat(dir.c_str(), &info) != 0) return fmt::format("can't be examined: {}", errno_text(errno));
  if (S_ISLNK(info.st_mode)) return "is a symbolic link";
  if (!S_ISDIR(info.st_mode)) return "is not a directory";
  return trust_problem(info);
}

enum class ReadResult { kOk, kAbsent, kDistrusted, kUnreadable };

/// Whole content of a file of ours.
ReadResult read_own_file(const std::string& path, std::vector<std::byte>& out, int64_t& modified_s, std::string& why) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) {
    why = errno == ELOOP ? "is a symbolic link" : errno_text(errno);
    return errno == ENOENT ? ReadResult::kAbsent : errno == ELOOP ? ReadResult::kDistrusted : ReadResult::kUnreadable;
  }
  ReadResult result = ReadResult::kOk;
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    why = "is not a regular file";
    result = ReadResult::kUnreadable;
  } else if (why = trust_problem(info); !why.empty()) {
    result = ReadResult::kDistrusted;
  } else {
    modified_s = info.st_mtim.tv_sec;
    out.resize(static_cast<size_t>(info.st_size));
    size_t n_read = 0;
    while (n_read < out.size()) {
      const ssize_t n = ::read(fd, out.data() + n_read, out.size() - n_read);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        why = errno_text(errno);
        result = ReadResult::kUnreadable;
      }
      if (n <= 0) break;
      n_read += static_cast<size_t>(n);
    }
    out.resize(n_read);  // a shorter file than its size said fails verification
  }
  ::close(fd);
  return result;
}

struct FoundFile {
  std::string path;
  std::string key;  ///< empty: not an entry
  uint64_t n_bytes = 0;
  int64_t modified_s = 0;
};

/// Every regular file below `root`, except those in its top folder. Files that vanish meanwhile are left out.
std::vector<FoundFile> list_files(const std::string& root) {
  std::vector<FoundFile> files;
  std::error_code ec;
  for (fs::directory_iterator folder(root, ec), none; !ec && folder != none; folder.increment(ec)) {
    std::error_code inner;
    if (!folder->is_directory(inner) || folder->is_symlink(inner)) continue;
    const std::string prefix = folder->path().filename().string();
    for (fs::directory_iterator item(folder->path(), inner); !inner && item != none; item.increment(inner)) {
      struct stat info = {};
      const std::string path = item->path().string();
      if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
      std::string key = prefix + item->path().stem().string();
      if (item->path().extension() != kSuffix || !is_key(key)) key.clear();
      files.push_back({path, std::move(key), static_cast<uint64_t>(info.st_size), info.st_mtim.tv_sec});
    }
  }
  return files;
}

bool is_in_quarantine(const FoundFile& file) { return fs::path(file.path).parent_path().filename() == "quarantine"; }

}  // namespace

CubinStore::CubinStore(std::string dir, uint64_t max_bytes) : dir_(std::move(dir)), max_bytes_(max_bytes) {
  if (dir_.empty()) {
    problem_ = "there is no cache folder (no absolute XDG_CACHE_HOME or HOME)";
  } else if (std::string why; !make_root(why)) {
    problem_ = fmt::format("cache folder {} {}", dir_, why);
  }
  if (!problem_.empty()) log_warning("cache", "{}; new kernels are kept in memory only", problem_);
}

bool CubinStore::make_root(std::string& why) {
  std::error_code ec;
  // Parents get the usual mode; what holds code is ours alone.
  fs::create_directories(fs::path(dir_).parent_path(), ec);
  if (why = prepare_folder(dir_); !why.empty()) return false;
  has_disk_ = true;
  is_writable_ = ::faccessat(AT_FDCWD, dir_.c_str(), W_OK, AT_EACCESS) == 0;
  const int access_error = errno;
  if (const std::string root_why = prepare_folder(root()); !root_why.empty()) {
    // Nothing to read, and nowhere to write.
    has_disk_ = is_writable_ = false;
    why = fmt::format("is not usable: its folder v1 {}", root_why);
    return false;
  }
  if (!is_writable_) {
    problem_ = fmt::format("cache folder {} can't be written: {}", dir_, errno_text(access_error));
  }
  return true;
}

std::string CubinStore::problem() const {
  const std::lock_guard lock(mutex_);
  return problem_;
}

std::string CubinStore::entry_path(const std::string& key) const {
  if (!is_key(key)) throw Error(ErrorKind::kInternal, fmt::format("cache key '{}' is not of 32 hex digits", key));
  return fmt::format("{}/{}/{}{}", root(), key.substr(0, 2), key.substr(2), kSuffix);
}

void CubinStore::refuse_writes(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (!is_writable_) return;
  is_writable_ = false;
  problem_ = why;
  log_warning("cache", "{}; new kernels are kept in memory only", why);
}

std::optional<Cubin> CubinStore::find(const std::string& key) {
  if (!has_disk_) return std::nullopt;
  const std::string path = entry_path(key);
  std::vector<std::byte> file;
  int64_t modified_s = 0;
  std::string why;
  switch (read_own_file(path, file, modified_s, why)) {
    case ReadResult::kAbsent: return std::nullopt;
    case ReadResult::kDistrusted:
    case ReadResult::kUnreadable: log_warning("cache", "entry {} is not used: {}", path, why); return std::nullopt;
    case ReadResult::kOk: break;
  }
  std::optional<Cubin> cubin = decode_entry(file, key, &why);
  if (!cubin) {
    move_to_quarantine(path, why);
    return std::nullopt;
  }
  const int64_t now = now_s();
  if (can_write() && (now - modified_s > kTouchEveryS || modified_s > now)) ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  return cubin;
}

bool CubinStore::insert(const std::string& key, const Cubin& cubin) {
  if (!can_write()) return false;
  const std::string path = entry_path(key);
  const std::vector<std::byte> file = encode_entry(key, cubin);
  const std::string folder = path.substr(0, path.rfind('/'));
  if (const std::string why = prepare_folder(folder); !why.empty()) {
    refuse_writes(fmt::format("cache folder {} {}", folder, why));
    return false;
  }
  try {
    atomic_write(path, file);
  } catch (const Error& error) {
    refuse_writes(error.message());
    return false;
  }
  if (grow_estimate(file.size())) collect_garbage(max_bytes_ - max_bytes_ / 10);
  return true;
}

/// True when the cap is passed.
bool CubinStore::grow_estimate(uint64_t n_bytes) {
  const std::lock_guard lock(mutex_);
  if (!is_estimate_valid_) {
    bytes_estimate_ = 0;
    for (const FoundFile& file : list_files(root())) bytes_estimate_ += file.n_bytes;
    is_estimate_valid_ = true;
  } else {
    bytes_estimate_ += n_bytes;
  }
  if (bytes_estimate_ <= max_bytes_) return false;
  is_estimate_valid_ = false;
  return true;
}

void CubinStore::quarantine(const std::string& key, std::string_view why) {
  if (!has_disk_) return;
  const std::string path = entry_path(key);
  if (::access(path.c_str(), F_OK) == 0) move_to_quarantine(path, why);
}

void CubinStore::move_to_quarantine(const std::string& path, std::string_view why) {
  const std::string folder = root() + "/quarantine";
  const fs::path file(path);
  const std::string target =
      fmt::format("{}/{}{}-{}-{}", folder, file.parent_path().filename().string(), file.stem().string(), now_s(), ::getpid());
  const bool is_moved = prepare_folder(folder).empty() && ::rename(path.c_str(), target.c_str()) == 0;
  const bool is_gone = is_moved || ::unlink(path.c_str()) == 0 || errno == ENOENT;
  log_warning("cache", "entry {} is damaged ({}); it is compiled again and {}", path, why,
              is_moved ? "kept in " + folder : is_gone ? "removed" : "can't be removed: " + errno_text(errno));
}

std::vector<CompilerId> CubinStore::known_compilers() const {
  std::vector<CompilerId> compilers;
  std::vector<std::byte> file;
  int64_t modified_s = 0;
  std::string why;
  if (!has_disk_ || read_own_file(root() + "/compilers", file, modified_s, why) != ReadResult::kOk) return compilers;
  std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(text.size(), end + 1));
    CompilerId id;
    const auto [rest, ec] = std::from_chars(line.data(), line.data() + line.size(), id.version);
    if (ec != std::errc() || rest == line.data() + line.size() || *rest != ' ') continue;
    id.build_id.assign(rest + 1, line.data() + line.size());
    compilers.push_back(std::move(id));
  }
  return compilers;
}

void CubinStore::remember_compiler(const CompilerId& compiler) {
  constexpr size_t kMost = 8;
  if (!can_write()) return;
  std::vector<CompilerId> known = known_compilers();
  if (!known.empty() && known.front() == compiler) return;
  std::erase(known, compiler);
  known.insert(known.begin(), compiler);
  known.resize(std::min(known.size(), kMost));
  std::string text;
  for (const CompilerId& id : known) text += fmt::format("{} {}\n", id.version, id.build_id);
  try {
    atomic_write(root() + "/compilers", text);
  } catch (const Error& error) {
    refuse_writes(error.message());
  }
}

std::vector<StoreEntryInfo> CubinStore::entries() const {
  std::vector<StoreEntryInfo> infos;
  if (!has_disk_) return infos;
  for (const FoundFile& found : list_files(root())) {
    std::vector<std::byte> file;
    int64_t modified_s = 0;
    std::string why;
    if (found.key.empty() || read_own_file(found.path, file, modified_s, why) != ReadResult::kOk) continue;
    const std::optional<Cubin> cubin = decode_entry(file, found.key, &why);
    if (!cubin) continue;
    infos.push_back({.key = found.key, .label = cubin->label, .entry = cubin->entry, .target = cubin->target,
                     .compiler = cubin->compiler, .resources = cubin->resources, .compile_us = cubin->compile_us,
                     .file_bytes = found.n_bytes, .last_used_s = modified_s});
  }
  std::sort(infos.begin(), infos.end(), [](const StoreEntryInfo& a, const StoreEntryInfo& b) {
    return a.last_used_s != b.last_used_s ? a.last_used_s > b.last_used_s : a.key < b.key;
  });
  return infos;
}

StoreStats CubinStore::stats() const {
  StoreStats stats;
  if (!has_disk_) return stats;
  for (const FoundFile& file : list_files(root())) {
    if (is_in_quarantine(file)) {
      ++stats.n_quarantined;
      stats.quarantined_bytes += file.n_bytes;
    } else if (!file.key.empty()) {
      ++stats.n_entries;
      stats.total_bytes += file.n_bytes;
    }
  }
  return stats;
}

VerifyReport CubinStore::verify() {
  VerifyReport report;
  if (!has_disk_) return report;
  for (const FoundFile& found : list_files(root())) {
    if (found.key.empty()) continue;
    std::vector<std::byte> file;
    int64_t modified_s = 0;
    std::string why;
    const ReadResult result = read_own_file(found.path, file, modified_s, why);
    if (result == ReadResult::kAbsent) continue;
    if (result == ReadResult::kOk && decode_entry(file, found.key, &why)) {
      ++report.n_good;
      continue;
    }
    report.damaged.push_back(fmt::format("{}: {}", found.path, why));
    if (result == ReadResult::kOk) move_to_quarantine(found.path, why);
  }
  return report;
}

uint64_t CubinStore::collect_garbage(uint64_t max_bytes) {
  if (!can_write()) return 0;
  const int64_t now = now_s();
  uint64_t n_removed = 0, total_bytes = 0;
  const auto remove = [&](const std::string& path) {
    const bool is_gone = ::unlink(path.c_str()) == 0;
    n_removed += is_gone ? 1 : 0;
    return is_gone || errno == ENOENT;  // another process was faster
  };
  std::vector<FoundFile> entries;
  for (FoundFile& file : list_files(root())) {
    const int64_t age_s = now - file.modified_s;
    if (is_in_quarantine(file)) {
      if (age_s > kQuarantineLifeS) remove(file.path);
    } else if (!file.key.empty()) {
      total_bytes += file.n_bytes;
      // A stamp in the future says nothing about use; without this rule such an entry would stay for ever.
      if (file.modified_s > now + kYoungS) file.modified_s = 0;
      entries.push_back(std::move(file));
    } else if (is_temporary_name(file.path) && age_s > kTemporaryLifeS) {
      remove(file.path);
    }
  }
  std::sort(entries.begin(), entries.end(), [](const FoundFile& a, const FoundFile& b) { return a.modified_s < b.modified_s; });
  for (const FoundFile& entry : entries) {
    if (total_bytes <= max_bytes || now - entry.modified_s < kYoungS) break;
    if (remove(entry.path)) total_bytes -= entry.n_bytes;
  }
  return n_removed;
}

uint64_t CubinStore::clear() {
  if (!can_write()) return 0;
  uint64_t n_removed = 0;
  for (const FoundFile& file : list_files(root())) n_removed += ::unlink(file.path.c_str()) == 0 ? 1 : 0;
  return n_removed;
}

}  // namespace sj
