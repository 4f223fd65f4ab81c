// PLAN -> WORK ON THE DEVICE. Runs steps, watches the token ring, and remembers the first CUDA failure: after it nothing
// runs any more. In: plans. Out: tokens. Called by the session.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "jit/driver.h"
#include "runtime/plan.h"

namespace sj {

class Executor {
 public:
  /// `sync_launches`: plans run launch by launch, each waited for, so that a failing one is named. Slow, for looking into
  /// failures.
  Executor(const Driver& drv, bool sync_launches);

  const Stream& stream() const { return stream_; }
  /// Records the plan as one graph with programmatic edges; run() replays it from now on.
  void capture(Plan& plan);
  /// Enqueues one step.
  void run(const Plan& plan);
  /// Waits for everything that was enqueued.
  void synchronize(std::string_view what);

  /// The mapped ring that sampling kernels write: slot i % kTokenRingSlots holds (i + 1) << 32 | token once step i is done.
  void set_token_ring(const uint64_t* ring, const uint32_t* nan_step);
  /// The token that step `step_idx` sampled; spins, then sleeps, until it is there. Throws the failure when the device fails
  /// meanwhile, kInternal when the step's logits had a NaN.
  int32_t wait_for_token(uint32_t step_idx);
  bool has_token(uint32_t step_idx) const;

  /// Calls `body`; a kCuda error is remembered and thrown with `what` as frame, now and by every later call.
  template <class Body>
  void guarded(std::string_view what, Body&& body) {
    if (failure_) throw *failure_;
    try {
      body();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCuda) throw;
      failure_ = error.with_frame(what);
      throw *failure_;
    }
  }

 private:
  void enqueue(const Plan& plan);
  bool sync_launches_;
  Stream stream_;
  const uint64_t* ring_ = nullptr;
  const uint32_t* nan_step_ = nullptr;
  std::optional<Error> failure_;
};

}  // namespace sj
