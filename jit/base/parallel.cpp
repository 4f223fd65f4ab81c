#include "jit/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace sj {

uint32_t n_usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<uint32_t>(std::max(1, CPU_COUNT(&set)));
  return std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for(uint64_t n_jobs, uint32_t n_threads, const std::function<void(uint64_t)>& body) {
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  const auto work = [&] {
    for (uint64_t i = next++; i < n_jobs; i = next++) {
      try {
        body(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first_error) first_error = std::current_exception();
        next = n_jobs;
      }
    }
  };
  const uint64_t wanted = std::min<uint64_t>(n_threads == 0 ? n_usable_cores() : n_threads, n_jobs);
  {
    std::vector<std::jthread> threads;
    for (uint64_t t = 1; t < wanted; ++t) threads.emplace_back(work);
    work();
  }
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace sj
