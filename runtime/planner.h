// LOWERED STEPS + CUBINS + MEMORY -> PLANS. Gives every buffer an address and every launch a loaded kernel.
// Called by the session while loading; afterwards nothing is allocated, compiled or loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/kernel_cache.h"
#include "jit/driver.h"
#include "runtime/lowered.h"
#include "runtime/memory_plan.h"
#include "runtime/plan.h"
#include "runtime/weights.h"

namespace sj {

/// The distinct kernels of several steps: equal source, entry and baked constants are one kernel, whatever the launch shape.
struct KernelTable {
  std::vector<KernelSpec> specs;                  ///< with the largest dynamic shared memory of their launches
  std::vector<std::vector<uint32_t>> of_launch;   ///< [step][launch] -> index of specs
};
KernelTable collect_kernels(std::span<const Lowered> steps);

/// The arena, the state and the weights of a session in device memory.
class DeviceMemory {
 public:
  /// Allocates, zeroes the state and writes its initial content; the arena is the largest of `arenas`. Done on return.
  DeviceMemory(const Driver& drv, const Stream& stream, StatePlan states, std::span<const ArenaPlan> arenas);
  void set_weights(DeviceBuffer weights, const WeightPlan& plan);

  /// Device address of a buffer that `step` names.
  CUdeviceptr address(const Lowered& step, const ArenaPlan& arena, const BufferRef& ref) const;
  CUdeviceptr state_ptr(const std::string& key) const;
  CUdeviceptr arena_ptr() const { return arena_.ptr(); }
  const StatePlan& states() const { return states_; }
  /// The host's view of a state in mapped host memory.
  std::byte* host_ptr(const std::string& key) const;

 private:
  StatePlan states_;
  DeviceBuffer arena_, state_, weights_;
  PinnedBuffer host_state_;
  const WeightPlan* weight_plan_ = nullptr;
};

/// Loads the kernels of `table`, in order; a cubin that the driver refuses is dropped from the cache and compiled again once.
/// Throws kCuda and kUnsupported as LoadedKernel does.
std::vector<LoadedKernel> load_kernels(const Driver& drv, KernelCache& cache, const KernelTable& table,
                                       const BuiltKernels& built, const std::string& target);

/// Launch `idx` of the step, with the addresses of its buffers.
PlannedLaunch plan_launch(const Lowered& step, size_t idx, const ArenaPlan& arena, const DeviceMemory& memory, const LoadedKernel& kernel);
/// `kernels` must outlive the plan; `of_launch` is the step's row of KernelTable.
Plan make_plan(const Lowered& step, const ArenaPlan& arena, const DeviceMemory& memory, std::span<const LoadedKernel> kernels,
               std::span<const uint32_t> of_launch);

}  // namespace sj
