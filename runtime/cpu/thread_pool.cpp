#include "runtime/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>

namespace sj {
namespace {

// A decode step is some hundred short loops: looking a moment longer before sleeping saves a wake-up each. Short enough
// not to steal cores from others.
constexpr int kSpins = 2000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

uint32_t n_usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

ThreadPool::ThreadPool(uint32_t n_threads) : n_threads_(n_threads != 0 ? n_threads : n_usable_cores()) {
  for (uint32_t i = 1; i < n_threads_; ++i) threads_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::for_each(uint64_t n_tasks, const std::function<void(uint64_t, uint32_t)>& task) {
  if (threads_.empty() || n_tasks <= 1) {
    for (uint64_t i = 0; i < n_tasks; ++i) task(i, 0);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    n_tasks_ = n_tasks;
    next_task_ = 0;
    n_busy_ = n_threads_ - 1;
    round_.fetch_add(1, std::memory_order_release);   // publishes the fields above to spinning workers
  }
  start_.notify_all();
  take_tasks(0);
  for (int i = 0; i < kSpins && n_busy_.load(std::memory_order_acquire) != 0; ++i) pause_cpu();
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return n_busy_ == 0; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_tasks(uint32_t thread_idx) {
  try {
    for (uint64_t i; (i = next_task_.fetch_add(1, std::memory_order_relaxed)) < n_tasks_;) (*task_)(i, thread_idx);
  } catch (...) {
    next_task_ = n_tasks_;   // the rest of the loop is pointless
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::work(uint32_t thread_idx) {
  uint64_t seen = 0;
  while (true) {
    for (int i = 0; i < kSpins && round_.load(std::memory_order_acquire) == seen && !stop_; ++i) pause_cpu();
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return round_ != seen || stop_; });
      if (stop_) return;
      seen = round_;
    }
    take_tasks(thread_idx);
    if (n_busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      const std::lock_guard lock(mutex_);   // the caller is either before its test of n_busy_ or asleep
      done_.notify_one();
    }
  }
}

}  // namespace sj
