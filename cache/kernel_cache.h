// KERNEL SPECS -> CUBINS, each compiled once: memory -> bundles -> disk -> compile -> bundles for a compatible target. One
// compile a key across the threads of this process (a shared future) and across processes (KeyLock). In: specs and targets.
// Out: cubins.
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
#include <unordered_set>
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
  std::vector<std::string> bundle_paths;   ///< asked in this order
  std::string trust_key_path;           ///< public keys, one of which must have signed each bundle; empty: not asked for
  bool may_compile = true;              ///< false: a miss is an error that names the kernel
  bool show_progress = true;
};

struct BuildStats {
  uint32_t n_kernels = 0;       ///< distinct keys asked for
  uint32_t n_from_memory = 0, n_from_bundle = 0, n_from_disk = 0, n_compiled = 0;
  uint32_t n_from_family = 0;   ///< cubins of a compatible target, from a bundle
  uint32_t n_threads = 0;
  double compile_us = 0;        ///< sum over compiles
  double wall_us = 0;
};

struct KernelRequest {
  KernelSpec spec;
  std::string target;
};

struct BuiltKernels {
  std::vector<std::shared_ptr<const Cubin>> cubins;  ///< one a request, in order; equal ones share one
  BuildStats stats;
};

/// Thread-safe.
class KernelCache {
 public:
  /// Looks a key up in a place of read-only cubins.
  using BundleLookup = std::function<std::optional<Cubin>(const std::string& key)>;

  /// Opens NVRTC only when a kernel is not in memory or in a bundle, and never needs it for one that is on disk. Throws kIo for a
  /// kernel_dir that can't be read; for bundles and the trusted keys as Bundle::open and TrustedKeys::from_file do.
  explicit KernelCache(KernelCacheOptions options);

  /// Asked before the disk, in the order they were added, for keys of the compilers that made the bundle; so no compiler is
  /// needed here to form a key. `made_for` goes into messages. Not while other threads use the cache.
  void add_bundle(std::vector<CompilerId> compilers, BundleLookup lookup, std::string made_for = {});

  /// The cubin of one spec. Throws kCompile.
  std::shared_ptr<const Cubin> require_cubin(const KernelSpec& spec, const std::string& target);
  /// All of them, longest compile first, on at most `n_threads` (0: all cores), with a progress bar. Throws the first
  /// kCompile; with may_compile = false one error that names every missing kernel.
  BuiltKernels build_kernels(std::span<const KernelRequest> requests, uint32_t n_threads = 0);
  BuiltKernels build_kernels(std::span<const KernelSpec> specs, const std::string& target, uint32_t n_threads = 0);

  /// The driver refused to load this cubin: it leaves memory and disk and bundles are not asked for it again, so that the next
  /// require_cubin compiles it.
  void drop(const KernelSpec& spec, const std::string& target, const std::string& why);

  CubinStore& store() { return store_; }
  const SourceSet& sources() const;
  const KernelCacheOptions& options() const { return options_; }

 private:
  enum class Origin { kMemory, kBundle, kDisk, kCompiled, kFamily };
  struct Found {
    std::shared_ptr<const Cubin> cubin;  ///< null: another process is compiling it and the caller did not want to wait
    Origin origin = Origin::kMemory;
  };
  struct BundleSource {
    std::vector<CompilerId> compilers;
    BundleLookup lookup;
    std::string made_for;
  };
  struct Job;
  using Future = std::shared_future<std::shared_ptr<const Cubin>>;

  std::string memory_key(const KernelSpec& spec, const std::string& target) const;
  Found obtain(const KernelSpec& spec, const std::string& target, const std::string& key, bool may_wait);
  Found find_or_make(const KernelSpec& spec, const std::string& target, bool may_wait);
  std::optional<Cubin> find_in_bundles(const KernelSpec& spec, const std::string& target) const;
  std::optional<Cubin> find_compatible(const KernelSpec& spec, const std::string& target) const;
  bool is_refused(const KernelSpec& spec, const std::string& target);
  std::string bundles_text() const;
  BuiltKernels collect(std::span<const Job> jobs, std::span<const size_t> job_of_request) const;
  Cubin compile_now(const KernelSpec& spec, const std::string& target) const;

  KernelCacheOptions options_;
  CubinStore store_;
  std::unique_ptr<SourceSet> own_sources_;  ///< of kernel_dir
  std::vector<BundleSource> bundles_;
  std::mutex mutex_;  ///< guards in_memory_ and refused_
  std::unordered_map<std::string, Future> in_memory_;  ///< by memory_key; an entry that is not ready is being made
  std::unordered_set<std::string> refused_;            ///< memory_keys whose bundled cubin the driver did not load
};

}  // namespace sj
