#include "runtime/tune_compile.h"

#include <algorithm>
#include <utility>

namespace sj {

CompileAhead::CompileAhead(KernelCache& cache, std::vector<KernelSpec> specs, std::string target, uint32_t n_threads)
    : cache_(cache), specs_(std::move(specs)), target_(std::move(target)), promises_(specs_.size()) {
  for (KernelSpec& spec : specs_) spec.may_spill = true;   // it is the tuner's to judge, not the log's
  for (auto& promise : promises_) results_.push_back(promise.get_future().share());
  const size_t n = std::min<size_t>(std::max(n_threads, 1u), specs_.size());
  for (size_t i = 0; i < n; ++i) threads_.emplace_back([this](std::stop_token stop) { work(std::move(stop)); });
}

CompileAhead::~CompileAhead() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

void CompileAhead::work(std::stop_token stop) {
  while (!stop.stop_requested()) {
    const size_t i = next_++;
    if (i >= specs_.size()) return;
    try {
      promises_[i].set_value(cache_.require_cubin(specs_[i], target_));
    } catch (...) {
      promises_[i].set_exception(std::current_exception());
    }
  }
}

}  // namespace sj
