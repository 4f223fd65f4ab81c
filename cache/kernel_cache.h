// KERNEL SPECS -> CUBINS, each compiled once: memory -> bundles -> disk -> compile. One compile a key across the threads of
// this process (a shared future) and across processes (KeyLock). In: specs and a target. Out: cubins.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "cache/cubin_store.h"
#include "jit/compiler.h"
#include "jit/kernel_spec.h"

namespace sj {

/// <xdg_cache_home>/sparkjit, else <home>/.cache/sparkjit, else empty (memory only). Relative values are ignored, as the
/// XDG base directory specification says.
std::string default_cache_dir(const std::string& xdg_cache_home, const std::string& home);
/// <xdg_runtime_dir>/sparkjit if absolute, else /dev/shm/sparkjit-<uid>.
std::string default_lock_dir(const std::string& xdg_runtime_dir);

struct KernelCacheOptions {
  std::string cache_dir;                ///< empty: memory only
  std::string lock_dir;                 ///< empty: no coordination with other processes
  uint64_t max_bytes = CubinStore::kDefaultMaxBytes;
  std::string kernel_dir;               ///< empty: the embedded kernel texts
  std::string libnvrtc_path;            ///< empty: the usual places
  bool may_compile = true;              ///< false: a miss is an error that names the kernel
  bool show_progress = true;
};

struct BuildStats {
  uint32_t n_kernels = 0;       ///< distinct keys asked for
  uint32_t n_from_memory = 0, n_from_bundle = 0, n_from_disk = 0, n_compiled = 0;
  uint32_t n_threads = 0;
  double compile_us = 0;        ///< sum over compiles
  double wall_us = 0;
};

struct BuiltKernels {
  std::vector<std::shared_ptr<const Cubin>> cubins;  ///< one a spec, in order; equal specs share one
  BuildStats stats;
};

/// Thread-safe.
class KernelCache {
 public:
  /// Looks a key up in a place of read-only cubins.
  using BundleLookup = std::function<std::optional<Cubin>(const std::string& key)>;

  /// Opens NVRTC only when a kernel is not in memory or in a bundle, and never needs it for one that is on disk. Throws kIo for a kernel_dir that can't be read.
  explicit KernelCache(KernelCacheOptions options);

  /// Asked before the disk, in the order they were added, for keys of the compilers that made the bundle. Not while other
  /// threads use the cache.
  void add_bundle(std::vector<CompilerId> compilers, BundleLookup lookup);

  /// The cubin of one spec. Throws kCompile.
  std::shared_ptr<const Cubin> require_cubin(const KernelSpec& spec, const std::string& target);
  /// All of them, longest compile first, on at most `n_threads` (0: all cores), with a progress bar. Throws the first
  /// kCompile; with may_compile = false one error that names every missing kernel.
  BuiltKernels build_kernels(std::span<const KernelSpec> specs, const std::string& target, uint32_t n_threads = 0);

  /// The driver refused to load this cubin: it leaves memory and disk, so that the next require_cubin compiles it.
  void drop(const KernelSpec& spec, const std::string& target, const std::string& why);

  CubinStore& store() { return store_; }
  const SourceSet& sources() const;
  const KernelCacheOptions& options() const { return options_; }

 private:
  enum class Origin { kMemory, kBundle, kDisk, kCompiled };
  struct Found {
    std::shared_ptr<const Cubin> cubin;  ///< null: another process is compiling it and the caller did not want to wait
    Origin origin = Origin::kMemory;
  };
  struct Bundle {
    std::vector<CompilerId> compilers;
    BundleLookup lookup;
  };
  using Future = std::shared_future<std::shared_ptr<const Cubin>>;

  std::string memory_key(const KernelSpec& spec, const std::string& target) const;
  Found obtain(const KernelSpec& spec, const std::string& target, const std::string& key, bool may_wait);
  Found find_or_make(const KernelSpec& spec, const std::string& target, bool may_wait);
  std::optional<Cubin> find_in_bundles(const KernelSpec& spec, const std::string& target) const;
  Cubin compile_now(const KernelSpec& spec, const std::string& target) const;

  KernelCacheOptions options_;
  CubinStore store_;
  std::unique_ptr<SourceSet> own_sources_;  ///< of kernel_dir
  std::vector<Bundle> bundles_;
  std::mutex mutex_;  ///< guards in_memory_
  std::unordered_map<std::string, Future> in_memory_;  ///< by memory_key; an entry that is not ready is being made
};

}  // namespace sj
