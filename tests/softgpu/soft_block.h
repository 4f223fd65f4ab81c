// Runs one block: its threads are fibers that switch at barriers and warp collectives, and run straight in between.
// In: a loaded image copy, a kernel and its parameters. Out: done, or the fault that a GPU (or a careful reader) would see.
#pragma once

#include <boost/context/detail/fcontext.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "softgpu/soft_checks.h"
#include "softgpu/soft_image.h"

namespace softgpu {

/// One copy of an image: shared memory is static data of the copy, so each host thread has its own.
struct ImageCopy {
  void* handle = nullptr;
  const SoftImage* image = nullptr;
  uint64_t base = 0;           ///< load address
  uint64_t span_bytes = 0;     ///< of everything that is loaded there
  std::string path = {};       ///< of its file, while that is kept
};

/// A range of an image's data that is shared memory.
struct SharedRange {
  uint64_t offset, size_bytes;  ///< from the load address
};

/// Where shared memory lies in an image, relative to its load address.
struct SharedMap {
  std::vector<SharedRange> ranges;
  // Checked doubles only, for one lookup an access:
  uint64_t begin = 0, dynamic_offset = 0;  ///< the first byte; the dynamic part from there
  std::vector<bool> is_variable;           ///< by byte from `begin`: belongs to a static variable
  void index(uint64_t dynamic_at);
};

struct LaunchJob {
  const char* name = "";
  uint32_t kernel_idx = 0;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t dynamic_bytes = 0;
  void** params = nullptr;
  uint64_t launch_idx = 0;
  uint64_t complete_before_wait = 0, complete_after_wait = 0;  ///< launches up to these are complete (checked doubles only)
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
  bool run(const LaunchJob& job, const ImageCopy& copy, const SharedMap& shared, const uint32_t (&idx)[3],
           KernelFault& fault);
  /// Whether a thread of the current launch has called griddepcontrol.wait.
  bool has_waited() const { return has_waited_; }
  void launch_begins() { has_waited_ = false; }

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
  void check_access(const void* address, uint64_t n_bytes, int kind, const void* pc);
  std::string shared_problem(uint64_t offset, uint64_t n_bytes, AccessKind kind);
  std::string shared_text(uint64_t offset) const;
  std::string line_of(const void* pc) const;
  bool is_own_state(uint64_t address) const;
  void settle_doubtful();
  void expect_values(const void* shared, uint64_t n_bytes);
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
  const void* main_stack_ = nullptr;  ///< of the host thread; only AddressSanitizer asks
  size_t main_stack_bytes_ = 0;

  const LaunchJob* job_ = nullptr;
  const ImageCopy* copy_ = nullptr;
  KernelFault* fault_ = nullptr;
  uint32_t n_threads_ = 0, n_live_ = 0, n_warps_ = 0;
  uint32_t n_at_barrier_ = 0, barrier_sum_ = 0, barrier_result_ = 0;
  const SoftPlace* barrier_place_ = nullptr;
  uint64_t n_idle_polls_ = 0;
  std::vector<Barrier> barriers_;
  std::vector<BulkCopy> bulk_copies_;
  const SharedMap* shared_ = nullptr;
  SharedShadow shared_shadow_;
  struct DoubtfulWrite {
    uint64_t address = 0, n_bytes = 0;
    char old_bytes[16] = {};
    std::string message;
  };
  DoubtfulWrite doubtful_;
  bool has_waited_ = false;
  uint32_t block_idx_ = 0;
};

}  // namespace softgpu
