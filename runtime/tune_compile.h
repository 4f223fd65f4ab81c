// Compiles candidates on threads of its own, in the order in which they will be wanted, while the GPU measures others.
// In: specs. Out: cubins, or why there is none. Called by the tuner.
#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cache/kernel_cache.h"

namespace sj {

class CompileAhead {
 public:
  /// Starts at once on `n_threads` threads, at least one. `cache` must outlive this object.
  CompileAhead(KernelCache& cache, std::vector<KernelSpec> specs, std::string target, uint32_t n_threads);
  /// Waits for the compiles that have begun; begins no more.
  ~CompileAhead();

  /// Waits for compile `idx`. Throws what it threw (kCompile).
  std::shared_ptr<const Cubin> wait(size_t idx) const { return results_[idx].get(); }
  size_t n_specs() const { return specs_.size(); }

 private:
  void work(std::stop_token stop);
  KernelCache& cache_;
  std::vector<KernelSpec> specs_;
  std::string target_;
  std::vector<std::promise<std::shared_ptr<const Cubin>>> promises_;
  std::vector<std::shared_future<std::shared_ptr<const Cubin>>> results_;
  std::atomic<size_t> next_ = 0;
  std::vector<std::jthread> threads_;   // last: joined before what they use goes
};

}  // namespace sj
