// Worker threads that live as long as the backend and share out the tasks of one loop at a time.
// In: a number of tasks and a function. Out: the function called once a task. Called by the CPU ops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace sj {

class ThreadPool {
 public:
  /// n_threads counts the calling thread; 0: all cores that this process may use.
  explicit ThreadPool(uint32_t n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  uint32_t n_threads() const { return n_threads_; }

  /// Calls task(task_idx, thread_idx) for task_idx 0..n_tasks-1, each once, in any order and on any thread
  /// (thread_idx < n_threads()); returns when all are done. The first exception of a task is rethrown here.
  /// Not reentrant.
  void for_each(uint64_t n_tasks, const std::function<void(uint64_t, uint32_t)>& task);

 private:
  void work(uint32_t thread_idx);
  void take_tasks(uint32_t thread_idx);

  uint32_t n_threads_ = 1;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::atomic<uint64_t> round_{0};       ///< grows by one for every loop
  std::atomic<uint32_t> n_busy_{0};      ///< workers that have not finished the current round
  std::atomic<bool> stop_{false};
  const std::function<void(uint64_t, uint32_t)>* task_ = nullptr;
  uint64_t n_tasks_ = 0;
  std::atomic<uint64_t> next_task_{0};
  std::exception_ptr error_;             ///< guarded by mutex_
};

}  // namespace sj
