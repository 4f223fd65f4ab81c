// Runs one block: its threads are fibers that switch at barriers and warp collectives, and run straight in between.
// In: a loaded image copy, a kernel and its parameters. Out: done, or the fault that a GPU (or a careful reader) would see.
#pragma once

#include <boost/context/detail/fcontext.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "softgpu/soft_image.h"

namespace softgpu {

/// One copy of an image: shared memory is static data of the copy, so each host thread has its own.
struct ImageCopy {
  void* handle = nullptr;
  const SoftImage* image = nullptr;
  uint64_t base = 0;           ///< load address
};

/// A range of an image's data that is shared memory.
struct SharedRange {
  uint64_t offset, size_bytes;  ///< from the load address
};

struct LaunchJob {
  const char* name = "";
  uint32_t kernel_idx = 0;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t dynamic_bytes = 0;
  void** params = nullptr;
  uint64_t launch_idx = 0;
};

struct KernelFault {
  int code = 0;         ///< CUresult
  std::string message;  ///< empty: no fault
};

class BlockRunner {
 public:
  BlockRunner();
  ~BlockRunner();
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  /// Runs block `idx`; returns false with the fault set when it went wrong.
  bool run(const LaunchJob& job, const ImageCopy& copy, const std::vector<SharedRange>& shared, const uint32_t (&idx)[3],
           KernelFault& fault);

 private:
  struct Fiber;
  struct Warp;
  struct AsyncCopy {
    void* shared;
    const void* global;
    uint32_t n_bytes, n_read;
    bool is_committed;
    uint32_t group;
  };
  struct Barrier {  // an mbarrier of this block
    void* address;
    uint32_t n_arrivals, n_missing;
    int64_t missing_bytes;
    uint32_t phase;
  };
  struct BulkCopy {
    void* shared;
    const void* global;
    uint32_t n_bytes;
    void* barrier;
  };

  static void fiber_main(boost::context::detail::transfer_t from);
  static SoftOps make_ops();
  void reserve_stacks(uint32_t n);
  void switch_to(Fiber& next);
  void block_current();
  Fiber* next_ready();
  Fiber* resolve_stall();
  void complete_group(Warp& warp, uint32_t mask);
  void finish_barrier();
  [[noreturn]] void fail(int code, const std::string& message);
  std::string where() const;
  std::string waiting_text() const;
  unsigned block_barrier(int predicate, const SoftPlace* place);
  void warp_collective(SoftLaneFn fn, void* operand, unsigned mask, const SoftPlace* place);
  void yield();
  void land(uint32_t n_pending);
  Barrier& require_barrier(void* address);
  void advance(Barrier& barrier);
  int test_barrier(void* address, uint32_t parity);

  static thread_local BlockRunner* running_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  Fiber* main_ = nullptr;
  Fiber* current_ = nullptr;
  char* stacks_ = nullptr;
  uint32_t n_stacks_ = 0;

  const LaunchJob* job_ = nullptr;
  const ImageCopy* copy_ = nullptr;
  KernelFault* fault_ = nullptr;
  uint32_t n_threads_ = 0, n_live_ = 0, n_warps_ = 0;
  uint32_t n_at_barrier_ = 0, barrier_sum_ = 0, barrier_result_ = 0;
  const SoftPlace* barrier_place_ = nullptr;
  uint64_t n_idle_polls_ = 0;
  std::vector<Barrier> barriers_;
  std::vector<BulkCopy> bulk_copies_;
};

}  // namespace softgpu
