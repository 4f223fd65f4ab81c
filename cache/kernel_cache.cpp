#include "cache/kernel_cache.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <utility>

#include "cache/bundle.h"
#include "cache/cache_key.h"
#include "cache/key_lock.h"
#include "jit/base/error.h"
#include "jit/base/log.h"
#include "jit/base/parallel.h"
#include "jit/device_info.h"

namespace sj {
namespace {

/// Longer than any compile takes; a holder that needs more is stuck, and compiling twice beats waiting.
constexpr int64_t kLockTimeoutUs = 60'000'000;

double us_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

CompilerId id_of(const Nvrtc& nvrtc) { return {nvrtc.version, nvrtc.build_id}; }

/// Orders compiles: more text takes longer. Only the order depends on it.
uint64_t text_bytes(const SourceSet& sources, const KernelSpec& spec) {
  const SourceClosure closure = sources.require_closure(spec.source);
  uint64_t n = closure.entry.text.size();
  for (const NamedText& header : closure.headers) n += header.text.size();
  return n;
}

}  // namespace

std::string default_cache_dir(const std::string& xdg_cache_home, const std::string& home) {
  if (xdg_cache_home.starts_with('/')) return xdg_cache_home + "/sparkjit";
  if (home.starts_with('/')) return home + "/.cache/sparkjit";
  return {};
}

std::string default_lock_dir(const std::string& xdg_runtime_dir) {
  if (xdg_runtime_dir.starts_with('/')) return xdg_runtime_dir + "/sparkjit";
  return fmt::format("/dev/shm/sparkjit-{}", ::geteuid());
}

KernelCache::KernelCache(KernelCacheOptions options) : options_(std::move(options)), store_(options_.cache_dir, options_.max_bytes) {
  if (!options_.kernel_dir.empty()) own_sources_ = std::make_unique<SourceSet>(SourceSet::from_folder(options_.kernel_dir));
  const TrustedKeys trusted = TrustedKeys::from_file(options_.trust_key_path);
  for (const std::string& path : options_.bundle_paths) {
    const auto bundle = std::make_shared<const Bundle>(Bundle::open(path, trusted));
    add_bundle(bundle->manifest().compilers, [bundle](const std::string& key) { return bundle->find(key); },
               fmt::format("{} for {}", path, purpose_text(bundle->manifest())));
  }
}

const SourceSet& KernelCache::sources() const { return own_sources_ ? *own_sources_ : SourceSet::embedded(); }

void KernelCache::add_bundle(std::vector<CompilerId> compilers, BundleLookup lookup, std::string made_for) {
  bundles_.push_back({std::move(compilers), std::move(lookup), std::move(made_for)});
}

std::string KernelCache::bundles_text() const {
  std::string text;
  for (const BundleSource& bundle : bundles_) text += fmt::format("{}{}", text.empty() ? "; bundles: " : "; ", bundle.made_for);
  return text;
}

std::string KernelCache::memory_key(const KernelSpec& spec, const std::string& target) const {
  // Without a compiler: one process has one, and a kernel of a bundle must not need it.
  return cache_key(spec, sources(), target, CompilerId{});
}

std::shared_ptr<const Cubin> KernelCache::require_cubin(const KernelSpec& spec, const std::string& target) {
  return obtain(spec, target, memory_key(spec, target), true).cubin;
}

KernelCache::Found KernelCache::obtain(const KernelSpec& spec, const std::string& target, const std::string& key, bool may_wait) {
  while (true) {
    std::promise<std::shared_ptr<const Cubin>> promise;
    Future others;
    {
      const std::lock_guard lock(mutex_);
      if (const auto it = in_memory_.find(key); it != in_memory_.end())
        others = it->second;
      else
        in_memory_.emplace(key, promise.get_future().share());
    }
    if (others.valid()) {
      std::shared_ptr<const Cubin> cubin = others.get();
      if (cubin == nullptr) continue;  // the thread that had it gave way to another process
      return {std::move(cubin), Origin::kMemory};
    }
    const auto forget = [&] {
      const std::lock_guard lock(mutex_);
      in_memory_.erase(key);
    };
    try {
      Found found = find_or_make(spec, target, may_wait);
      if (found.cubin == nullptr) forget();
      promise.set_value(found.cubin);
      return found;
    } catch (...) {
      forget();  // a later call tries again
      promise.set_exception(std::current_exception());
      throw;
    }
  }
}

std::optional<Cubin> KernelCache::find_in_bundles(const KernelSpec& spec, const std::string& target) const {
  for (const BundleSource& bundle : bundles_)
    for (const CompilerId& compiler : bundle.compilers)
      if (std::optional<Cubin> cubin = bundle.lookup(cache_key(spec, sources(), target, compiler))) return cubin;
  return std::nullopt;
}

bool KernelCache::is_refused(const KernelSpec& spec, const std::string& target) {
  const std::lock_guard lock(mutex_);
  return !refused_.empty() && refused_.contains(memory_key(spec, target));
}

std::optional<Cubin> KernelCache::find_compatible(const KernelSpec& spec, const std::string& target) const {
  for (const std::string& other : compatible_targets(target))
    if (std::optional<Cubin> cubin = find_in_bundles(spec, other)) return cubin;
  return std::nullopt;
}

KernelCache::Found KernelCache::find_or_make(const KernelSpec& spec, const std::string& target, bool may_wait) {
  const auto found = [](Cubin cubin, Origin origin) { return Found{std::make_shared<const Cubin>(std::move(cubin)), origin}; };
  const bool asks_bundles = !bundles_.empty() && !is_refused(spec, target);
  if (asks_bundles)
    if (std::optional<Cubin> cubin = find_in_bundles(spec, target)) return found(std::move(*cubin), Origin::kBundle);

  // Without NVRTC any compiler that filled this folder before will do.
  const Nvrtc* nvrtc = find_nvrtc(options_.libnvrtc_path);
  const std::vector<CompilerId> compilers = nvrtc != nullptr ? std::vector{id_of(*nvrtc)} : store_.known_compilers();
  for (const CompilerId& compiler : compilers)
    if (std::optional<Cubin> cubin = store_.find(cache_key(spec, sources(), target, compiler)))
      return found(std::move(*cubin), Origin::kDisk);

  // The exact cubin comes first, also when it must be compiled; what merely runs here serves when nothing else does.
  if (asks_bundles && (!options_.may_compile || nvrtc == nullptr))
    if (std::optional<Cubin> cubin = find_compatible(spec, target)) return found(std::move(*cubin), Origin::kFamily);

  if (!options_.may_compile)
    throw Error(ErrorKind::kCompile, fmt::format("kernel {}@{} is neither bundled nor cached, and compiling is switched off{}",
                                                 kernel_label(spec), target, bundles_text()));
  if (nvrtc == nullptr || !store_.can_write()) return found(compile_now(spec, target), Origin::kCompiled);

  const std::string disk_key = cache_key(spec, sources(), target, compilers.front());
  const KeyLock lock(options_.lock_dir, disk_key, may_wait ? kLockTimeoutUs : 0);
  if (!lock.is_held() && !may_wait && !options_.lock_dir.empty()) return {};
  // Another process may have published it between our look and our lock.
  if (std::optional<Cubin> cubin = store_.find(disk_key)) return found(std::move(*cubin), Origin::kDisk);
  Cubin cubin = compile_now(spec, target);
  if (store_.insert(disk_key, cubin)) store_.remember_compiler(compilers.front());
  return found(std::move(cubin), Origin::kCompiled);
}

Cubin KernelCache::compile_now(const KernelSpec& spec, const std::string& target) const {
  std::string dump_dir = "/tmp";
  if (store_.can_write()) {
    dump_dir = store_.dir() + "/failed";
    ::mkdir(dump_dir.c_str(), 0700);
  }
  try {
    return compile(require_nvrtc(options_.libnvrtc_path), {.spec = spec, .sources = sources(), .target = target, .dump_dir = dump_dir});
  } catch (const Error& error) {
    throw error.with_frame(fmt::format("kernel {}@{}", kernel_label(spec), target));
  }
}

struct KernelCache::Job {
  const KernelRequest* request;
  std::string key;
  uint64_t n_text_bytes;
  Found found = {};
  std::string missing = {};  ///< with may_compile = false: which kernel there is no cubin of
};

BuiltKernels KernelCache::build_kernels(std::span<const KernelSpec> specs, const std::string& target, uint32_t n_threads) {
  std::vector<KernelRequest> requests;
  for (const KernelSpec& spec : specs) requests.push_back({spec, target});
  return build_kernels(requests, n_threads);
}

BuiltKernels KernelCache::build_kernels(std::span<const KernelRequest> requests, uint32_t n_threads) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<Job> jobs;
  std::unordered_map<std::string, size_t> job_of_key;
  std::vector<size_t> job_of_request;
  for (const KernelRequest& request : requests) {
    std::string key = memory_key(request.spec, request.target);
    const auto [it, is_new] = job_of_key.emplace(key, jobs.size());
    if (is_new) jobs.push_back({&request, std::move(key), text_bytes(sources(), request.spec)});
    job_of_request.push_back(it->second);
  }
  std::vector<size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return jobs[a].n_text_bytes > jobs[b].n_text_bytes; });

  const uint32_t n_used = static_cast<uint32_t>(std::clamp<uint64_t>(n_threads == 0 ? n_usable_cores() : n_threads, 1,
                                                                     std::max<size_t>(1, jobs.size())));
  ProgressBar bar("compile", jobs.size(), options_.show_progress);
  const auto is_done = [](const Job& job) { return job.found.cubin != nullptr || !job.missing.empty(); };
  const auto build = [&](Job& job, bool may_wait) {
    const auto& [spec, target] = *job.request;
    try {
      job.found = obtain(spec, target, job.key, may_wait);
    } catch (const Error& error) {
      if (options_.may_compile || error.kind() != ErrorKind::kCompile) throw;
      job.missing = fmt::format("{}@{}", kernel_label(spec), target);
    }
    if (is_done(job)) bar.add(1, kernel_label(spec));
  };
  // First what nobody else is compiling, so that processes started together share the work; then what others have left.
  parallel_for(order.size(), n_used, [&](uint64_t i) { build(jobs[order[i]], false); });
  std::erase_if(order, [&](size_t j) { return is_done(jobs[j]); });
  parallel_for(order.size(), n_used, [&](uint64_t i) { build(jobs[order[i]], true); });

  BuiltKernels built = collect(jobs, job_of_request);
  built.stats.n_threads = n_used;
  built.stats.wall_us = us_since(start);
  return built;
}

BuiltKernels KernelCache::collect(std::span<const Job> jobs, std::span<const size_t> job_of_request) const {
  BuiltKernels built;
  built.stats.n_kernels = static_cast<uint32_t>(jobs.size());
  std::vector<std::string> missing;
  std::map<std::string, uint32_t> of_family;
  for (const Job& job : jobs) {
    if (!job.missing.empty()) {
      missing.push_back(job.missing);
      continue;
    }
    switch (job.found.origin) {
      case Origin::kMemory: ++built.stats.n_from_memory; break;
      case Origin::kBundle: ++built.stats.n_from_bundle; break;
      case Origin::kDisk: ++built.stats.n_from_disk; break;
      case Origin::kFamily:
        ++built.stats.n_from_family;
        ++of_family[fmt::format("cubins for {} serve for {}", job.found.cubin->target, job.request->target)];
        log_debug("bundle", "{}@{} serves for {}", job.found.cubin->label, job.found.cubin->target, job.request->target);
        break;
      case Origin::kCompiled:
        ++built.stats.n_compiled;
        built.stats.compile_us += job.found.cubin->compile_us;
        break;
    }
  }
  for (const auto& [what, n] : of_family)
    log_info("bundle", "{} {}: of the same family, and exact ones are neither here nor compiled", n, what);
  if (!missing.empty())
    throw Error(ErrorKind::kCompile, fmt::format("{} of {} kernels are neither bundled nor cached, and compiling is switched off: {}{}",
                                                 missing.size(), jobs.size(), fmt::join(missing, ", "), bundles_text()));
  for (const size_t j : job_of_request) built.cubins.push_back(jobs[j].found.cubin);
  return built;
}

void KernelCache::drop(const KernelSpec& spec, const std::string& target, const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    in_memory_.erase(memory_key(spec, target));
    refused_.insert(memory_key(spec, target));
  }
  const Nvrtc* nvrtc = find_nvrtc(options_.libnvrtc_path);
  for (const CompilerId& compiler : nvrtc != nullptr ? std::vector{id_of(*nvrtc)} : store_.known_compilers())
    store_.quarantine(cache_key(spec, sources(), target, compiler), why);
}

}  // namespace sj
