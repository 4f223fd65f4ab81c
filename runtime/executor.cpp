#include "runtime/executor.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "jit/launch.h"
#include "runtime/lowering.h"

namespace sj {
namespace {

constexpr uint32_t kSpinsBeforeSleep = 20000;   // about 100 us: a token of a small model
constexpr uint32_t kPollsPerCheck = 64;         // sleeps between looks at the stream's health

/// A word that the device writes while the host looks.
template <class Word>
Word read_mapped(const Word* place) {
  return std::atomic_ref<Word>(*const_cast<Word*>(place)).load(std::memory_order_acquire);
}

}  // namespace

Executor::Executor(const Driver& drv, bool sync_launches) : sync_launches_(sync_launches), stream_(drv) {}

void Executor::capture(Plan& plan) {
  if (sync_launches_) return;
  guarded("capture of the step", [&] {
    const Graph graph = capture_graph(stream_, [&] { enqueue(plan); });
    plan.graph = GraphExec(graph);
    plan.graph.upload(stream_);
  });
}

void Executor::enqueue(const Plan& plan) {
  for (size_t i = 0; i < plan.launches.size(); ++i) {
    const PlannedLaunch& planned = plan.launches[i];
    // The step's first launch follows whatever the host enqueued: a copy is no kernel, so it has no programmatic edge.
    launch(*planned.kernel, planned.shape, planned.args, stream_, {.pdl = planned.pdl && i != 0});
  }
}

void Executor::run(const Plan& plan) {
  if (plan.graph) return guarded("launch of the step's graph", [&] { plan.graph.launch(stream_); });
  if (!sync_launches_) return guarded("step", [&] { enqueue(plan); });
  for (const PlannedLaunch& planned : plan.launches)
    guarded(fmt::format("launch {}: {}", planned.label, planned.kernel->label()), [&] {
      launch(*planned.kernel, planned.shape, planned.args, stream_, {.pdl = false});
      stream_.synchronize(planned.label);
    });
}

void Executor::synchronize(std::string_view what) {
  guarded(what, [&] { stream_.synchronize(what); });
}

void Executor::set_token_ring(const uint64_t* ring, const uint32_t* nan_step) {
  ring_ = ring;
  nan_step_ = nan_step;
}

bool Executor::has_token(uint32_t step_idx) const {
  return read_mapped(ring_ + step_idx % kTokenRingSlots) >> 32 == uint64_t{step_idx + 1};
}

int32_t Executor::wait_for_token(uint32_t step_idx) {
  uint32_t n_spins = 0, n_sleeps = 0;
  while (!has_token(step_idx)) {
    if (++n_spins < kSpinsBeforeSleep) continue;
    if (++n_sleeps % kPollsPerCheck == 0)
      guarded(fmt::format("step {}", step_idx), [&] {
        if (stream_.is_done() && !has_token(step_idx))
          throw Error(ErrorKind::kCuda, fmt::format("the device is idle but step {} gave no token", step_idx));
      });
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  const uint32_t nan_step = read_mapped(nan_step_);
  if (nan_step != 0 && nan_step <= step_idx + 1)
    throw Error(ErrorKind::kInternal, fmt::format("step {}: a logit is NaN: the weights are damaged, or a kernel is wrong", nan_step - 1));
  return static_cast<int32_t>(static_cast<uint32_t>(read_mapped(ring_ + step_idx % kTokenRingSlots)));
}

}  // namespace sj
