#include "softgpu/soft_block.h"

#include <cuda.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "softgpu/soft_config.h"
#include "softgpu/soft_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace softgpu {

namespace bc = boost::context::detail;

namespace {

constexpr uint64_t kStackBytes = 256 << 10;
constexpr uint64_t kGuardBytes = 4096;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint64_t kMaxIdlePolls = 20'000'000;  ///< polls without any progress: the block hangs

bool same_place(const SoftPlace& a, const SoftPlace& b) {
  return a.line == b.line && std::strcmp(a.call, b.call) == 0 && std::strcmp(a.file, b.file) == 0;
}

std::string place_text(const SoftPlace& p) { return std::string(p.call) + " at " + p.file + "(" + std::to_string(p.line) + ")"; }

std::string hex(uint32_t v) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", v);
  return text;
}

}  // namespace

struct BlockRunner::Fiber {
  SoftThread thread;
  bc::fcontext_t context;
  char* stack_top;
  Warp* warp;
  SoftPlace place;   ///< of the call it waits in
  SoftLaneFn fn;
  void* operand;
  uint32_t mask;
  bool is_at_barrier;
  uint32_t n_groups;  ///< groups of asynchronous copies closed so far
  std::vector<AsyncCopy> copies;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
#endif
};

struct BlockRunner::Warp {
  Fiber* lanes;
  uint32_t idx;
  uint32_t ready;    ///< may run
  uint32_t live;     ///< have not exited
  uint32_t waiting;  ///< in a collective
};

thread_local BlockRunner* BlockRunner::running_ = nullptr;

BlockRunner::BlockRunner() : fibers_(kMaxThreads), warps_(kMaxThreads / 32), main_(new Fiber{}) {}

BlockRunner::~BlockRunner() {
  delete main_;
  if (stacks_ != nullptr) ::munmap(stacks_, kMaxThreads * kStackBytes);
}

/// Stacks start at different offsets, so that the hot lines of all threads do not share one cache set.
void BlockRunner::reserve_stacks(uint32_t n) {
  if (stacks_ == nullptr) {
    void* const p = ::mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    stacks_ = static_cast<char*>(p);
  }
  for (; n_stacks_ < n; ++n_stacks_) {
    char* const bottom = stacks_ + n_stacks_ * kStackBytes;
    ::mprotect(bottom, kGuardBytes, PROT_NONE);
    fibers_[n_stacks_].stack_top = bottom + kStackBytes - (n_stacks_ % 61) * 320;
  }
}

// ---- switching

void BlockRunner::switch_to(Fiber& next) {
  Fiber* const me = current_;
  current_ = &next;
  *copy_->image->current = &next.thread;
#if defined(__SANITIZE_ADDRESS__)
  if (&next == main_) {
    __sanitizer_start_switch_fiber(&me->fake_stack, nullptr, 0);
  } else {
    char* const bottom = stacks_ + static_cast<uint64_t>(&next - fibers_.data()) * kStackBytes;
    __sanitizer_start_switch_fiber(&me->fake_stack, bottom, kStackBytes);
  }
#endif
  const bc::transfer_t from = bc::jump_fcontext(next.context, me);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me->fake_stack, nullptr, nullptr);
#endif
  static_cast<Fiber*>(from.data)->context = from.fctx;
}

void BlockRunner::fiber_main(bc::transfer_t from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  static_cast<Fiber*>(from.data)->context = from.fctx;
  BlockRunner& runner = *running_;
  Fiber& me = *runner.current_;
  runner.copy_->image->kernels[runner.job_->kernel_idx].call(runner.job_->params);
  runner.land(0);
  me.warp->ready &= ~(1u << me.thread.lane);
  me.warp->live &= ~(1u << me.thread.lane);
  --runner.n_live_;
  runner.n_idle_polls_ = 0;
  if (runner.n_live_ == 0) runner.switch_to(*runner.main_);
  else runner.block_current();
  std::abort();  // an exited thread is never resumed
}

BlockRunner::Fiber* BlockRunner::next_ready() {
  Warp& warp = *current_->warp;
  if (warp.ready != 0) {
    const uint32_t after = warp.ready & ~((2u << current_->thread.lane) - 1u);
    return &warp.lanes[__builtin_ctz(after != 0 ? after : warp.ready)];
  }
  for (uint32_t i = 1; i < n_warps_; ++i) {
    Warp& other = warps_[(warp.idx + i) % n_warps_];
    if (other.ready != 0) return &other.lanes[__builtin_ctz(other.ready)];
  }
  return nullptr;
}

/// Gives the processor to a thread that can run. The caller has taken itself out of the ready set.
void BlockRunner::block_current() {
  Fiber* next = next_ready();
  if (next == nullptr) next = resolve_stall();
  if (next != current_) switch_to(*next);
}

/// Nobody can run: exits may have completed a collective; else the block is stuck, which is reported.
BlockRunner::Fiber* BlockRunner::resolve_stall() {
  for (uint32_t w = 0; w < n_warps_; ++w) {
    Warp& warp = warps_[w];
    for (uint32_t rest = warp.waiting; rest != 0; rest &= rest - 1) {
      const Fiber& fiber = warp.lanes[__builtin_ctz(rest)];
      const uint32_t need = fiber.mask & warp.live;
      if ((warp.waiting & need) == need) {
        complete_group(warp, fiber.mask);
        return &warp.lanes[__builtin_ctz(warp.ready)];
      }
    }
  }
  if (n_at_barrier_ != 0 && n_at_barrier_ == n_live_) {
    if (!config().allows_exited_barrier)
      fail(CUDA_ERROR_LAUNCH_FAILED, "divergent barrier: " + std::to_string(n_at_barrier_) + " threads wait in " +
                                         place_text(*barrier_place_) + " while " + std::to_string(n_threads_ - n_live_) +
                                         " threads of the block have exited");
    finish_barrier();
    for (uint32_t w = 0; w < n_warps_; ++w)
      if (warps_[w].ready != 0) return &warps_[w].lanes[__builtin_ctz(warps_[w].ready)];
  }
  fail(CUDA_ERROR_LAUNCH_FAILED, "the block can not go on: " + waiting_text());
}

std::string BlockRunner::waiting_text() const {
  std::string text;
  int n_groups = 0;
  for (uint32_t w = 0; w < n_warps_; ++w) {
    const Warp& warp = warps_[w];
    uint32_t seen = 0;
    for (uint32_t l = 0; l < 32; ++l) {
      if (!(warp.live >> l & 1) || (seen >> l & 1)) continue;
      uint32_t same = 0;
      for (uint32_t m = l; m < 32; ++m)
        if ((warp.live >> m & 1) && same_place(warp.lanes[m].place, warp.lanes[l].place) && warp.lanes[m].mask == warp.lanes[l].mask)
          same |= 1u << m;
      seen |= same;
      if (++n_groups > 6) continue;
      text += text.empty() ? "" : "; ";
      text += "warp " + std::to_string(w) + " lanes " + hex(same) + " wait in " + place_text(warp.lanes[l].place);
      if (!warp.lanes[l].is_at_barrier) text += " with mask " + hex(warp.lanes[l].mask);
    }
  }
  if (n_groups > 6) text += "; and " + std::to_string(n_groups - 6) + " more groups";
  if (n_live_ < n_threads_) text += "; " + std::to_string(n_threads_ - n_live_) + " threads have exited";
  return text;
}

// ---- faults

std::string BlockRunner::where() const {
  const SoftBlock& b = *copy_->image->block;
  std::string text = std::string("kernel ") + job_->name + " block (" + std::to_string(b.idx_x) + "," + std::to_string(b.idx_y) +
                     "," + std::to_string(b.idx_z) + ")";
  if (current_ != nullptr && current_ != main_)
    text += " thread (" + std::to_string(current_->thread.tid_x) + "," + std::to_string(current_->thread.tid_y) + "," +
            std::to_string(current_->thread.tid_z) + ")";
  return text;
}

/// Ends the block: its threads are dropped where they stand.
void BlockRunner::fail(int code, const std::string& message) {
  *fault_ = {code, where() + ": " + message};
  switch_to(*main_);
  std::abort();  // never resumed
}

// ---- barriers and collectives

void BlockRunner::finish_barrier() {
  barrier_result_ = barrier_sum_;
  n_at_barrier_ = barrier_sum_ = 0;
  for (uint32_t w = 0; w < n_warps_; ++w) warps_[w].ready = warps_[w].live;
  for (uint32_t i = 0; i < n_threads_; ++i) fibers_[i].is_at_barrier = false;
  n_idle_polls_ = 0;
}

unsigned BlockRunner::block_barrier(int predicate, const SoftPlace* place) {
  Fiber& me = *current_;
  me.place = *place;
  me.is_at_barrier = true;
  if (n_at_barrier_ == 0) barrier_place_ = &me.place;
  else if (!same_place(*barrier_place_, *place))
    fail(CUDA_ERROR_LAUNCH_FAILED, "divergent barrier: this thread waits in " + place_text(*place) + ", others in " +
                                       place_text(*barrier_place_));
  barrier_sum_ += static_cast<uint32_t>(predicate);
  if (++n_at_barrier_ == n_threads_) {
    finish_barrier();
    return barrier_result_;
  }
  me.warp->ready &= ~(1u << me.thread.lane);
  block_current();
  return barrier_result_;
}

void BlockRunner::complete_group(Warp& warp, uint32_t mask) {
  void* operands[32] = {};
  const uint32_t need = mask & warp.live;
  const Fiber& first = warp.lanes[__builtin_ctz(need)];
  for (uint32_t rest = need; rest != 0; rest &= rest - 1) {
    Fiber& lane = warp.lanes[__builtin_ctz(rest)];
    if (lane.mask != mask || !same_place(lane.place, first.place))
      fail(CUDA_ERROR_LAUNCH_FAILED, "warp collective in divergent flow: lane " + std::to_string(lane.thread.lane) + " is in " +
                                         place_text(lane.place) + " with mask " + hex(lane.mask) + ", lane " +
                                         std::to_string(first.thread.lane) + " in " + place_text(first.place) + " with mask " +
                                         hex(first.mask));
    operands[lane.thread.lane] = lane.operand;
  }
  if (first.fn != nullptr) first.fn(operands, need);
  warp.waiting &= ~need;
  warp.ready |= need;
  n_idle_polls_ = 0;
}

void BlockRunner::warp_collective(SoftLaneFn fn, void* operand, unsigned mask, const SoftPlace* place) {
  Fiber& me = *current_;
  Warp& warp = *me.warp;
  const uint32_t bit = 1u << me.thread.lane;
  me.place = *place;
  if (!(mask & bit))
    fail(CUDA_ERROR_LAUNCH_FAILED, place_text(*place) + ": lane " + std::to_string(me.thread.lane) + " is not in its mask " + hex(mask));
  me.fn = fn;
  me.operand = operand;
  me.mask = mask;
  warp.waiting |= bit;
  const uint32_t need = mask & warp.live;
  if ((warp.waiting & need) == need) {
    complete_group(warp, mask);
    return;
  }
  warp.ready &= ~bit;
  block_current();
}

void BlockRunner::yield() {
  if (++n_idle_polls_ > kMaxIdlePolls) fail(CUDA_ERROR_LAUNCH_TIMEOUT, "the block polls without end");
  Fiber* const next = next_ready();
  if (next != nullptr && next != current_) {
    // Other warps would starve if the threads of one only polled.
    Fiber* chosen = next;
    if (n_idle_polls_ % 64 == 0)
      for (uint32_t i = 1; i < n_warps_ && chosen == next; ++i) {
        Warp& other = warps_[(current_->warp->idx + i) % n_warps_];
        if (other.ready != 0) chosen = &other.lanes[__builtin_ctz(other.ready)];
      }
    switch_to(*chosen);
  }
}

// ---- asynchronous copies and mbarriers

/// Performs all but the latest `n_pending` groups of the running thread's copies.
void BlockRunner::land(uint32_t n_pending) {
  std::vector<AsyncCopy>& copies = current_->copies;
  if (copies.empty()) return;
  const bool is_exit = n_pending == 0;
  const uint32_t last = current_->n_groups - std::min(n_pending, current_->n_groups);
  size_t n_kept = 0;
  for (const AsyncCopy& copy : copies) {
    if ((!copy.is_committed && !is_exit) || (copy.is_committed && copy.group >= last)) {
      copies[n_kept++] = copy;
      continue;
    }
    std::memcpy(copy.shared, copy.global, copy.n_read);
    std::memset(static_cast<char*>(copy.shared) + copy.n_read, 0, copy.n_bytes - copy.n_read);
  }
  copies.resize(n_kept);
}

BlockRunner::Barrier& BlockRunner::require_barrier(void* address) {
  for (Barrier& barrier : barriers_)
    if (barrier.address == address) return barrier;
  fail(CUDA_ERROR_LAUNCH_FAILED, "an mbarrier is used before mbarrier_init");
}

void BlockRunner::advance(Barrier& barrier) {
  if (barrier.n_missing != 0 || barrier.missing_bytes != 0) return;
  ++barrier.phase;
  barrier.n_missing = barrier.n_arrivals;
  n_idle_polls_ = 0;
}

int BlockRunner::test_barrier(void* address, uint32_t parity) {
  Barrier& barrier = require_barrier(address);
  for (size_t i = 0; i < bulk_copies_.size();) {
    if (bulk_copies_[i].barrier != address) {
      ++i;
      continue;
    }
    std::memcpy(bulk_copies_[i].shared, bulk_copies_[i].global, bulk_copies_[i].n_bytes);
    barrier.missing_bytes -= bulk_copies_[i].n_bytes;
    bulk_copies_.erase(bulk_copies_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  advance(barrier);
  if ((barrier.phase & 1) != (parity & 1)) return 1;
  yield();
  return 0;
}

// ---- the table that device text calls

SoftOps BlockRunner::make_ops() {
  SoftOps ops = {};
  ops.block_barrier = [](int predicate, const SoftPlace* place) { return running_->block_barrier(predicate, place); };
  ops.warp_collective = [](SoftLaneFn fn, void* operand, unsigned mask, const SoftPlace* place) {
    running_->warp_collective(fn, operand, mask, place);
  };
  ops.pdl_trigger = [] {};
  ops.pdl_wait = [] {};
  ops.async_copy = [](void* shared, const void* global, unsigned n_bytes, unsigned n_read, unsigned long alignment) {
    const uint64_t both = reinterpret_cast<uint64_t>(shared) | reinterpret_cast<uint64_t>(global);
    if (both % alignment != 0) running_->fail(CUDA_ERROR_MISALIGNED_ADDRESS, "asynchronous copy of a misaligned address");
    Fiber& me = *running_->current_;
    me.copies.push_back({shared, global, n_bytes, std::min(n_read, n_bytes), false, me.n_groups});
  };
  ops.async_commit = [] {
    Fiber& me = *running_->current_;
    for (AsyncCopy& copy : me.copies)
      if (!copy.is_committed) copy.is_committed = true, copy.group = me.n_groups;
    ++me.n_groups;
  };
  ops.async_wait = [](unsigned n_pending) { running_->land(n_pending); };
  ops.bulk_copy = [](void* shared, const void* global, unsigned n_bytes, void* barrier) {
    const uint64_t all = reinterpret_cast<uint64_t>(shared) | reinterpret_cast<uint64_t>(global) | n_bytes;
    if (all % 16 != 0) running_->fail(CUDA_ERROR_MISALIGNED_ADDRESS, "bulk copy of a misaligned address or size");
    running_->require_barrier(barrier);
    running_->bulk_copies_.push_back({shared, global, n_bytes, barrier});
  };
  ops.mbarrier_init = [](void* address, unsigned n_arrivals) {
    auto& all = running_->barriers_;
    all.erase(std::remove_if(all.begin(), all.end(), [&](const Barrier& b) { return b.address == address; }), all.end());
    if (n_arrivals != 0) all.push_back({address, n_arrivals, n_arrivals, 0, 0});
  };
  ops.mbarrier_arrive = [](void* address, unsigned expect_bytes) {
    Barrier& barrier = running_->require_barrier(address);
    if (barrier.n_missing == 0) running_->fail(CUDA_ERROR_LAUNCH_FAILED, "more arrivals at an mbarrier than its phase has");
    barrier.missing_bytes += expect_bytes;
    --barrier.n_missing;
    running_->advance(barrier);
  };
  ops.mbarrier_test = [](void* address, unsigned parity) { return running_->test_barrier(address, parity); };
  ops.check_access = [](const void*, unsigned long, int, const void*) {};
  ops.fence = [] {};
  ops.yield = [] { running_->yield(); };
  ops.fail = [](const char* message) { running_->fail(CUDA_ERROR_LAUNCH_FAILED, message); };
  return ops;
}

bool BlockRunner::run(const LaunchJob& job, const ImageCopy& copy, const std::vector<SharedRange>& shared, const uint32_t (&idx)[3],
                      KernelFault& fault) {
  static const SoftOps ops = make_ops();
  running_ = this;
  job_ = &job;
  copy_ = &copy;
  fault_ = &fault;
  fault = {};
  n_threads_ = job.block[0] * job.block[1] * job.block[2];
  n_live_ = n_threads_;
  n_warps_ = (n_threads_ + 31) / 32;
  n_at_barrier_ = barrier_sum_ = 0;
  n_idle_polls_ = 0;
  barriers_.clear();
  bulk_copies_.clear();
  reserve_stacks(n_threads_);

  const SoftImage& image = *copy.image;
  *image.ops = &ops;
  *image.block = {job.grid[0], job.grid[1], job.grid[2], job.block[0], job.block[1], job.block[2], idx[0], idx[1], idx[2]};
  // What shared memory holds when a block starts is anything but zero.
  for (const SharedRange& range : shared) std::memset(reinterpret_cast<void*>(copy.base + range.offset), 0xA5, range.size_bytes);
  std::memset(image.dynamic_shared, 0xA5, job.dynamic_bytes);

  for (uint32_t w = 0; w < n_warps_; ++w) {
    const uint32_t n = std::min(32u, n_threads_ - 32 * w), all = n == 32 ? ~0u : (1u << n) - 1u;
    warps_[w] = {&fibers_[32 * w], w, all, all, 0};
  }
  for (uint32_t i = 0; i < n_threads_; ++i) {
    Fiber& fiber = fibers_[i];
    fiber.thread = {i % job.block[0], i / job.block[0] % job.block[1], i / (job.block[0] * job.block[1]), i % 32};
    fiber.context = bc::make_fcontext(fiber.stack_top, kStackBytes / 2, &fiber_main);
    fiber.warp = &warps_[i / 32];
    fiber.place = {"", "", 0};
    fiber.is_at_barrier = false;
    fiber.n_groups = 0;
    fiber.copies.clear();
  }
  const Config& c = config();
  uint32_t first = 0;
  if (c.is_reverse) first = n_threads_ - 1;
  else if (c.seed != 0) first = static_cast<uint32_t>((c.seed * 0x9E3779B97F4A7C15ull + job.launch_idx * 31 + idx[0]) >> 33) % n_threads_;
  current_ = main_;
  switch_to(fibers_[first]);
  return fault.code == 0;
}

}  // namespace softgpu
