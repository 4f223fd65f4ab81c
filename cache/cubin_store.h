// Cubins on disk, one file an entry, written so that a reader sees all of it or nothing. It can be slow, full, read-only or
// damaged: then there are misses and one warning, never an error. Safe for many threads and processes at once.
//
// <dir>/v1/<2 hex>/<30 hex>.cubin   header, meta (JSON), payload (ELF image); little-endian
// <dir>/v1/quarantine/              entries that failed verification, for people to look at
// <dir>/v1/compilers                identities of the compilers that published here: keys can be formed without NVRTC
// Last use is the file's modification time, set by us at most once an hour; validity never depends on a time.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/cache_key.h"
#include "jit/cubin.h"

namespace sj {

struct StoreEntryInfo {
  std::string key;
  std::string label, entry, target, compiler;  ///< from the meta
  KernelResources resources;
  double compile_us = 0;
  uint64_t file_bytes = 0;
  int64_t last_used_s = 0;                     ///< Unix time
};

struct StoreStats {
  uint64_t n_entries = 0, total_bytes = 0, n_quarantined = 0, quarantined_bytes = 0;
};

struct VerifyReport {
  uint64_t n_good = 0;
  std::vector<std::string> damaged;  ///< "<path>: <what is wrong>"; they are in quarantine now
};

/// The bytes of an entry file, and back. decode_entry returns nothing, with the reason in `why`, unless every byte is as
/// encode_entry wrote it and the key is `key`.
std::vector<std::byte> encode_entry(const std::string& key, const Cubin& cubin);
std::optional<Cubin> decode_entry(std::span<const std::byte> file, const std::string& key, std::string* why);

class CubinStore {
 public:
  static constexpr uint64_t kDefaultMaxBytes = uint64_t{512} << 20;

  /// Opens or creates `dir` with mode 0700. An empty `dir`, one that can't be made or written, belongs to another user, is a
  /// symbolic link or is writable by others makes a store without disk, with one warning that says why.
  explicit CubinStore(std::string dir, uint64_t max_bytes = kDefaultMaxBytes);

  /// The verified entry; nothing when there is none. A damaged entry goes into quarantine, with one warning.
  std::optional<Cubin> find(const std::string& key);
  /// Publishes; false, with one warning a store, when the disk refuses. Evicts when the cap is passed.
  bool insert(const std::string& key, const Cubin& cubin);
  /// Takes an entry out of use, as find() does with a damaged one: the driver refused it.
  void quarantine(const std::string& key, std::string_view why);

  /// Compilers whose cubins are here, latest first.
  std::vector<CompilerId> known_compilers() const;
  void remember_compiler(const CompilerId& compiler);

  bool has_disk() const { return has_disk_; }
  bool can_write() const { return has_disk_ && is_writable_; }
  const std::string& dir() const { return dir_; }
  /// Why has_disk() or can_write() is false; empty when both are true.
  std::string problem() const;

  /// Entries, most recently used first; unreadable ones are left out.
  std::vector<StoreEntryInfo> entries() const;
  StoreStats stats() const;
  /// Reads every entry completely.
  VerifyReport verify();
  /// Evicts least-recently-used entries until at most `max_bytes` are left, sweeps left-over temporary files, empties the
  /// quarantine of files older than a week. Entries younger than a minute stay. Returns how many files went.
  uint64_t collect_garbage(uint64_t max_bytes);
  /// Removes all entries and the quarantine; returns how many files went.
  uint64_t clear();

 private:
  std::string root() const { return dir_ + "/v1"; }
  std::string entry_path(const std::string& key) const;
  bool make_root(std::string& why);
  void refuse_writes(const std::string& why);
  void move_to_quarantine(const std::string& path, std::string_view why);
  bool grow_estimate(uint64_t n_bytes);

  std::string dir_;
  uint64_t max_bytes_;
  bool has_disk_ = false;
  bool is_writable_ = false;
  mutable std::mutex mutex_;  ///< guards the fields below
  std::string problem_;
  uint64_t bytes_estimate_ = 0;
  bool is_estimate_valid_ = false;
};

}  // namespace sj
