#include "runtime/planner.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "jit/base/log.h"

namespace sj {
namespace {

template <class Launch>
Cost cost_of(const Launch& launch, const Cost& fixed, uint64_t n_keys) {
  const CostPerKey& per_key = launch.per_key;
  const uint64_t n_seen = per_key.window_tokens == 0 ? n_keys : std::min<uint64_t>(n_keys, per_key.window_tokens);
  return {fixed.bytes + per_key.bytes * static_cast<double>(n_seen), fixed.flops + per_key.flops * static_cast<double>(n_seen)};
}

template <class Launch>
Cost sum_of(const std::vector<Launch>& launches, uint64_t n_keys) {
  Cost sum;
  for (const Launch& launch : launches) {
    const Cost cost = launch.cost(n_keys);
    sum.bytes += cost.bytes;
    sum.flops += cost.flops;
  }
  return sum;
}

uint32_t max_dynamic_smem(const KernelTable& table, uint32_t kernel) { return table.specs[kernel].launch.dynamic_smem_bytes; }

}  // namespace

Cost LoweredLaunch::cost(uint64_t n_keys) const { return cost_of(*this, spec.cost, n_keys); }
Cost PlannedLaunch::cost(uint64_t n_keys) const { return cost_of(*this, fixed_cost, n_keys); }

Cost Plan::cost(uint64_t n_keys) const { return sum_of(launches, n_keys); }
Cost Lowered::cost(uint64_t n_keys) const { return sum_of(launches, n_keys); }

KernelTable collect_kernels(std::span<const Lowered> steps) {
  KernelTable table;
  std::map<std::string, uint32_t> index;
  for (const Lowered& step : steps) {
    std::vector<uint32_t>& row = table.of_launch.emplace_back();
    for (const LoweredLaunch& launch : step.launches) {
      const std::string key = launch.spec.source + '\n' + launch.spec.entry + '\n' + baked_header(launch.spec);
      const auto [it, is_new] = index.try_emplace(key, static_cast<uint32_t>(table.specs.size()));
      if (is_new) table.specs.push_back(launch.spec);
      uint32_t& smem = table.specs[it->second].launch.dynamic_smem_bytes;
      smem = std::max(smem, launch.spec.launch.dynamic_smem_bytes);
      row.push_back(it->second);
    }
  }
  return table;
}

DeviceMemory::DeviceMemory(const Driver& drv, const Stream& stream, StatePlan states, std::span<const ArenaPlan> arenas)
    : states_(std::move(states)) {
  uint64_t arena_bytes = 0;
  for (const ArenaPlan& arena : arenas) arena_bytes = std::max(arena_bytes, arena.n_bytes);
  arena_ = DeviceBuffer(drv, arena_bytes, "activations");
  state_ = DeviceBuffer(drv, states_.device_bytes, "KV cache and state");
  host_state_ = PinnedBuffer(drv, std::max<uint64_t>(states_.host_bytes, 1), "token ring");
  std::memset(host_state_.data(), 0, host_state_.size_bytes());
  fill_bytes(stream, state_.ptr(), 0, states_.device_bytes);
  stream.synchronize("clearing the state");
  for (const auto& [key, place] : states_.places)
    if (!place.init.empty() && place.home == StateHome::kDevice)
      copy_to_device(drv, state_.ptr() + place.offset_bytes, place.init.data(), place.init.size());
}

void DeviceMemory::set_weights(DeviceBuffer weights, const WeightPlan& plan) {
  weights_ = std::move(weights);
  weight_plan_ = &plan;
}

CUdeviceptr DeviceMemory::state_ptr(const std::string& key) const {
  const StatePlace& place = states_.require(key);
  return (place.home == StateHome::kDevice ? state_.ptr() : host_state_.device_ptr()) + place.offset_bytes;
}

std::byte* DeviceMemory::host_ptr(const std::string& key) const {
  const StatePlace& place = states_.require(key);
  if (place.home != StateHome::kMappedHost) throw Error(ErrorKind::kInternal, fmt::format("state {}: not in host memory", key));
  return host_state_.data() + place.offset_bytes;
}

CUdeviceptr DeviceMemory::address(const Lowered& step, const ArenaPlan& arena, const BufferRef& ref) const {
  switch (ref.kind) {
    case BufferKind::kWeight: return weights_.ptr() + weight_plan_->offset_of(step.weights.at(ref.id)) + ref.byte_offset;
    case BufferKind::kValue: return arena_.ptr() + arena.offsets.at(ref.id) + ref.byte_offset;
    case BufferKind::kState: return state_ptr(step.states.at(ref.id).key) + ref.byte_offset;
  }
  throw Error(ErrorKind::kInternal, "a buffer of no kind");
}

std::vector<LoadedKernel> load_kernels(const Driver& drv, KernelCache& cache, const KernelTable& table,
                                       const BuiltKernels& built, const std::string& target) {
  std::vector<LoadedKernel> kernels;
  kernels.reserve(table.specs.size());
  for (uint32_t i = 0; i < table.specs.size(); ++i) {
    const uint32_t smem_bytes = max_dynamic_smem(table, i);
    try {
      kernels.emplace_back(drv, *built.cubins[i], smem_bytes);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCuda) throw;
      log_warning("cache", "the driver refused {}: {}; compiling it again", built.cubins[i]->label, error.message());
      cache.drop(table.specs[i], target, error.message());
      kernels.emplace_back(drv, *cache.require_cubin(table.specs[i], target), smem_bytes);
    }
  }
  return kernels;
}

PlannedLaunch plan_launch(const Lowered& step, size_t idx, const ArenaPlan& arena, const DeviceMemory& memory, const LoadedKernel& kernel) {
  const LoweredLaunch& launch = step.launches[idx];
  PlannedLaunch planned{.kernel = &kernel, .shape = launch.spec.launch, .args = launch.args, .label = launch.label, .layer = launch.layer,
                        .pdl = launch.pdl, .fixed_cost = launch.spec.cost, .per_key = launch.per_key};
  for (const ArgPatch& patch : launch.patches) {
    const CUdeviceptr address = memory.address(step, arena, patch.ref);
    std::memcpy(planned.args.data() + patch.args_offset, &address, sizeof(address));
  }
  return planned;
}

Plan make_plan(const Lowered& step, const ArenaPlan& arena, const DeviceMemory& memory, std::span<const LoadedKernel> kernels,
               std::span<const uint32_t> of_launch) {
  Plan plan{.n_tokens = step.n_tokens, .all_logits = step.all_logits, .attend_tokens = step.attend_tokens, .launches = {}, .graph = {}};
  for (size_t i = 0; i < step.launches.size(); ++i)
    plan.launches.push_back(plan_launch(step, i, arena, memory, kernels[of_launch[i]]));
  return plan;
}

std::string dump(const Plan& plan) {
  std::string text = fmt::format("step of {} tokens: {} launches{}\n", plan.n_tokens, plan.launches.size(),
                                 plan.graph ? ", one graph" : "");
  for (const PlannedLaunch& launch : plan.launches) {
    const KernelResources& r = launch.kernel->resources();
    text += fmt::format("{:<24} {} grid {},{},{} block {} smem {}+{} regs {} {}\n", launch.label, launch.kernel->label(),
                        launch.shape.grid.x, launch.shape.grid.y, launch.shape.grid.z,
                        launch.shape.block.x * launch.shape.block.y * launch.shape.block.z, r.static_smem_bytes,
                        launch.shape.dynamic_smem_bytes, r.registers, launch.pdl ? "pdl" : "");
    text += fmt::format("{:<24}  ", "");
    for (size_t offset = 0; offset + sizeof(uint64_t) <= launch.args.size(); offset += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, launch.args.data() + offset, sizeof(word));
      text += fmt::format(" {:#x}", word);
    }
    text += '\n';
  }
  return text;
}

}  // namespace sj
