#include "softgpu/soft_block.h"

#include <cuda.h>
#include <sys/mman.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>

#include "softgpu/soft_config.h"
#include "softgpu/soft_memory.h"

#if defined(SOFT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace softgpu {

namespace bc = boost::context::detail;

namespace {

constexpr uint64_t kStackBytes = 256 << 10;
constexpr uint64_t kGuardBytes = 4096;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint64_t kMaxIdlePolls = 20'000'000;  ///< polls without any progress: the block hangs

bool is_same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool same_place(const SoftPlace& a, const SoftPlace& b) {
  return a.line == b.line && is_same_text(a.call, b.call) && is_same_text(a.file, b.file);
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
  bool has_waited;    ///< called griddepcontrol.wait, or met a thread that had
  uint16_t sync;      ///< warp collectives it took part in
  uint32_t n_groups;  ///< groups of asynchronous copies closed so far
  std::vector<AsyncCopy> copies;
#if defined(SOFT_ASAN)
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

constinit thread_local BlockRunner* BlockRunner::running_ = nullptr;

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
#if defined(SOFT_ASAN)
  if (&next == main_) {
    __sanitizer_start_switch_fiber(&me->fake_stack, main_stack_, main_stack_bytes_);
  } else {
    char* const bottom = stacks_ + static_cast<uint64_t>(&next - fibers_.data()) * kStackBytes;
    __sanitizer_start_switch_fiber(&me->fake_stack, bottom, kStackBytes);
  }
#endif
  const bc::transfer_t from = bc::jump_fcontext(next.context, me);
#if defined(SOFT_ASAN)
  __sanitizer_finish_switch_fiber(me->fake_stack, nullptr, nullptr);
#endif
  static_cast<Fiber*>(from.data)->context = from.fctx;
}

void BlockRunner::fiber_main(bc::transfer_t from) {
  static_cast<Fiber*>(from.data)->context = from.fctx;
  BlockRunner& runner = *running_;
#if defined(SOFT_ASAN)
  const bool is_from_main = from.data == runner.main_;
  __sanitizer_finish_switch_fiber(nullptr, is_from_main ? &runner.main_stack_ : nullptr, is_from_main ? &runner.main_stack_bytes_ : nullptr);
#endif
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
  bool has_waited = false;
  for (uint32_t i = 0; i < n_threads_; ++i) has_waited |= fibers_[i].has_waited;
  for (uint32_t i = 0; i < n_threads_; ++i) fibers_[i].is_at_barrier = false, fibers_[i].has_waited = has_waited;
  shared_shadow_.barrier();
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
  if (kIsChecked) {
    bool has_waited = false;
    for (uint32_t rest = need; rest != 0; rest &= rest - 1) has_waited |= warp.lanes[__builtin_ctz(rest)].has_waited;
    for (uint32_t rest = need; rest != 0; rest &= rest - 1) {
      Fiber& lane = warp.lanes[__builtin_ctz(rest)];
      lane.has_waited = has_waited;
      ++lane.sync;
    }
  }
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

/// The bytes of shared memory that a copy will fill hold nothing until it has landed.
void BlockRunner::expect_values(const void* shared, uint64_t n_bytes) {
  const uint64_t offset = reinterpret_cast<uint64_t>(shared) - copy_->base - shared_->begin;
  if (offset + n_bytes > shared_->is_variable.size() || offset > shared_->is_variable.size())
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, "asynchronous copy to an address that is not shared memory");
  shared_shadow_.take_values(offset, n_bytes);
}

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
    if (kIsChecked) check_access(copy.shared, copy.n_bytes, static_cast<int>(AccessKind::kWrite) | 8, nullptr);
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
  shared_shadow_.barrier();
  n_idle_polls_ = 0;
}

int BlockRunner::test_barrier(void* address, uint32_t parity) {
  Barrier& barrier = require_barrier(address);
  for (size_t i = 0; i < bulk_copies_.size();) {
    if (bulk_copies_[i].barrier != address) {
      ++i;
      continue;
    }
    if (kIsChecked) check_access(bulk_copies_[i].shared, bulk_copies_[i].n_bytes, static_cast<int>(AccessKind::kWrite) | 8, nullptr);
    std::memcpy(bulk_copies_[i].shared, bulk_copies_[i].global, bulk_copies_[i].n_bytes);
    barrier.missing_bytes -= bulk_copies_[i].n_bytes;
    bulk_copies_.erase(bulk_copies_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  advance(barrier);
  if ((barrier.phase & 1) != (parity & 1)) return 1;
  yield();
  return 0;
}

// ---- accesses (checked doubles)

std::string BlockRunner::line_of(const void* pc) const {
  if (pc == nullptr || copy_->path.empty()) return {};
  char command[256], line[512] = {};
  std::snprintf(command, sizeof command, "addr2line -e %s 0x%lx 2>/dev/null", copy_->path.c_str(),
                static_cast<unsigned long>(reinterpret_cast<uint64_t>(pc) - copy_->base - 1));
  if (FILE* const pipe = ::popen(command, "r")) {
    if (std::fgets(line, sizeof line, pipe) == nullptr) line[0] = '\0';
    ::pclose(pipe);
  }
  std::string text = line;
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  if (const size_t slash = text.find("softnvrtc-"); slash != std::string::npos)
    if (const size_t name = text.find('/', slash); name != std::string::npos) text.erase(0, name + 1);
  return text.empty() || text[0] == '?' ? "" : " at " + text;
}

std::string BlockRunner::shared_problem(uint64_t offset, uint64_t n_bytes, AccessKind kind) {
  const bool is_dynamic = offset >= shared_->dynamic_offset && offset < shared_->dynamic_offset + kSoftDynamicBytes;
  bool is_inside = true;
  if (is_dynamic) {
    is_inside = offset + n_bytes <= shared_->dynamic_offset + job_->dynamic_bytes;
  } else {
    for (uint64_t i = 0; i < n_bytes && is_inside; ++i) is_inside = shared_->is_variable[offset + i];
  }
  if (!is_inside) return "out of bounds";
  const uint16_t idx = static_cast<uint16_t>(current_ - fibers_.data());
  return shared_shadow_.check(offset, n_bytes, kind, {idx, current_->sync}, config().allows_unwritten_shared);
}

/// `kind` is an AccessKind, plus 8 when the compiler knows that the address may be misaligned.
void BlockRunner::check_access(const void* pointer, uint64_t n_bytes, int kind, const void* pc) {
  if (doubtful_.n_bytes != 0) settle_doubtful();
  const uint64_t address = reinterpret_cast<uint64_t>(pointer);
  const AccessKind access = static_cast<AccessKind>(kind & 7);
  const auto what = [&] {
    const char* const verb = access == AccessKind::kWrite ? "write" : access == AccessKind::kAtomic ? "atomic" : "read";
    return std::string(verb) + " of " + std::to_string(n_bytes) + " bytes" + line_of(pc);
  };
  Memory& memory = Memory::instance();
  if (memory.in_range(address)) {
    if ((kind & 8) == 0 && address % n_bytes != 0)
      fail(CUDA_ERROR_MISALIGNED_ADDRESS, what() + ": misaligned, " + memory.describe(address));
    const uint64_t complete = current_->has_waited ? job_->complete_after_wait : job_->complete_before_wait;
    const uint64_t also = current_->has_waited ? job_->launch_idx - 1 : 0;
    const std::string problem = DeviceShadow::instance().check(
        address, n_bytes, access, {job_->launch_idx, complete, also, block_idx_, config().allows_block_race});
    if (problem.empty()) return;
    const std::string message = what() + ": " + problem + " (" + memory.describe(address) + ")";
    if (access == AccessKind::kWrite && problem.starts_with(kBlockRace) && n_bytes <= sizeof doubtful_.old_bytes) {
      // Harmless if it writes what is there already: known at the next access.
      doubtful_ = {address, n_bytes, {}, where() + ": " + message};
      std::memcpy(doubtful_.old_bytes, pointer, n_bytes);
      return;
    }
    fail(problem == "out of bounds" ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED, message);
  }
  const uint64_t offset = address - copy_->base - shared_->begin;
  if (offset < shared_->is_variable.size()) {
    // The image's own state lies in the same section: reads and writes of it are the prelude's.
    if (!shared_->is_variable[offset] && is_own_state(address)) return;
    if ((kind & 8) == 0 && address % n_bytes != 0)
      fail(CUDA_ERROR_MISALIGNED_ADDRESS, what() + ": misaligned shared address");
    if (const std::string problem = shared_problem(offset, n_bytes, access); !problem.empty())
      fail(problem == "out of bounds" ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED,
           what() + ": " + problem + " (" + shared_text(offset) + ")");
    return;
  }
  const char* const at = static_cast<const char*>(pointer);
  const bool is_stack = at >= stacks_ && at < stacks_ + kMaxThreads * kStackBytes;
  const bool is_driver = at >= reinterpret_cast<const char*>(fibers_.data()) &&
                         at < reinterpret_cast<const char*>(fibers_.data() + fibers_.size());
  const bool is_image = address - copy_->base < copy_->span_bytes && access != AccessKind::kWrite;
  if (!is_stack && !is_driver && !is_image && !is_own_state(address))
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, what() + ": an address that is neither device nor shared memory");
}

std::string BlockRunner::shared_text(uint64_t offset) const {
  if (offset >= shared_->dynamic_offset && offset < shared_->dynamic_offset + kSoftDynamicBytes)
    return "byte " + std::to_string(offset - shared_->dynamic_offset) + " of " + std::to_string(job_->dynamic_bytes) +
           " bytes of dynamic shared memory";
  const SharedRange* below = nullptr;
  for (const SharedRange& range : shared_->ranges)
    if (range.offset <= offset + shared_->begin) below = &range;
  if (below == nullptr) return "before the first shared variable";
  return "byte " + std::to_string(offset + shared_->begin - below->offset) + " of a shared variable of " +
         std::to_string(below->size_bytes) + " bytes";
}

/// Two blocks wrote one place; that matters only when the second changed it.
void BlockRunner::settle_doubtful() {
  const bool is_same = std::memcmp(reinterpret_cast<const void*>(doubtful_.address), doubtful_.old_bytes, doubtful_.n_bytes) == 0;
  doubtful_.n_bytes = 0;
  if (is_same) return;
  *fault_ = {CUDA_ERROR_LAUNCH_FAILED, doubtful_.message};
  if (current_ != main_) switch_to(*main_);
}

bool BlockRunner::is_own_state(uint64_t address) const {
  const SoftImage& image = *copy_->image;
  const auto is_in = [&](const void* p, size_t n) { return address - reinterpret_cast<uint64_t>(p) < n; };
  return is_in(image.current, sizeof(void*)) || is_in(image.ops, sizeof(void*)) || is_in(image.block, sizeof(SoftBlock)) ||
         is_in(*image.ops, sizeof(SoftOps));
}

// ---- the table that device text calls

SoftOps BlockRunner::make_ops() {
  SoftOps ops = {};
  ops.block_barrier = [](int predicate, const SoftPlace* place) { return running_->block_barrier(predicate, place); };
  ops.warp_collective = [](SoftLaneFn fn, void* operand, unsigned mask, const SoftPlace* place) {
    running_->warp_collective(fn, operand, mask, place);
  };
  ops.pdl_trigger = [] {};
  ops.pdl_wait = [] {
    running_->current_->has_waited = true;
    running_->has_waited_ = true;
  };
  ops.async_copy = [](void* shared, const void* global, unsigned n_bytes, unsigned n_read, unsigned long alignment) {
    const uint64_t both = reinterpret_cast<uint64_t>(shared) | reinterpret_cast<uint64_t>(global);
    if (both % alignment != 0) running_->fail(CUDA_ERROR_MISALIGNED_ADDRESS, "asynchronous copy of a misaligned address");
    Fiber& me = *running_->current_;
    if (kIsChecked) {
      if (n_read != 0) running_->check_access(global, n_read, 8, __builtin_return_address(0));
      running_->expect_values(shared, n_bytes);
    }
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
    if (kIsChecked) {
      running_->check_access(global, n_bytes, 8, __builtin_return_address(0));
      running_->expect_values(shared, n_bytes);
    }
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
  ops.check_access = [](const void* address, unsigned long n_bytes, int kind, const void* pc) {
    running_->check_access(address, n_bytes, kind, pc);
  };
  ops.fence = [] {};
  ops.yield = [] { running_->yield(); };
  ops.fail = [](const char* message) { running_->fail(CUDA_ERROR_LAUNCH_FAILED, message); };
  return ops;
}

bool BlockRunner::run(const LaunchJob& job, const ImageCopy& copy, const SharedMap& shared, const uint32_t (&idx)[3],
                      KernelFault& fault) {
  static const SoftOps ops = make_ops();
  running_ = this;
  job_ = &job;
  copy_ = &copy;
  fault_ = &fault;
  fault = {};
  shared_ = &shared;
  block_idx_ = idx[0] + job.grid[0] * (idx[1] + job.grid[1] * idx[2]);
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
  *image.block = {job.grid[0], job.grid[1], job.grid[2], job.block[0], job.block[1], job.block[2], idx[0], idx[1], idx[2],
                  stacks_, kMaxThreads * kStackBytes};
  // What shared memory holds when a block starts is anything but zero.
  for (const SharedRange& range : shared.ranges) std::memset(reinterpret_cast<void*>(copy.base + range.offset), 0xA5, range.size_bytes);
#if defined(SOFT_ASAN)
  __asan_unpoison_memory_region(image.dynamic_shared, kSoftDynamicBytes);
  __asan_poison_memory_region(image.dynamic_shared + job.dynamic_bytes, kSoftDynamicBytes - job.dynamic_bytes);
#endif
  std::memset(image.dynamic_shared, 0xA5, job.dynamic_bytes);
  if (kIsChecked) {
    shared_shadow_.cover(shared.is_variable.size());
    shared_shadow_.block_begins();
  }

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
    fiber.is_at_barrier = fiber.has_waited = false;
    fiber.sync = 0;
    fiber.n_groups = 0;
    fiber.copies.clear();
  }
  const Config& c = config();
  uint32_t first = 0;
  if (c.is_reverse) first = n_threads_ - 1;
  else if (c.seed != 0) first = static_cast<uint32_t>((c.seed * 0x9E3779B97F4A7C15ull + job.launch_idx * 31 + idx[0]) >> 33) % n_threads_;
  current_ = main_;
  doubtful_.n_bytes = 0;
  switch_to(fibers_[first]);
  current_ = main_;
  if (fault.code == 0 && doubtful_.n_bytes != 0) settle_doubtful();
  return fault.code == 0;
}

}  // namespace softgpu
