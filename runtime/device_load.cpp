#include "runtime/device_load.h"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/kv_cache.h"

namespace sj {

std::unique_ptr<WeightSource> weight_source(const OpenedModel& opened, const DeviceInfo& device) {
  if (opened.weight_seed) return std::make_unique<SyntheticWeights>(opened.file, *opened.weight_seed);
  return std::make_unique<FileWeights>(opened.file, device.is_integrated);
}

MemoryNeeds memory_needs(const ModelDesc& model, uint32_t max_ctx_tokens, bool is_kv_f32, const WeightPlan& weights, const StatePlan& states,
                         std::span<const ArenaPlan> arenas) {
  MemoryNeeds needs{.weight_bytes = weights.n_bytes(), .kv_bytes = kv_cache_bytes(model, max_ctx_tokens, is_kv_f32)};
  needs.state_bytes = states.device_bytes - std::min(states.device_bytes, needs.kv_bytes);
  for (const ArenaPlan& arena : arenas) needs.arena_bytes = std::max(needs.arena_bytes, arena.n_bytes);
  needs.kv_bytes_per_page = needs.kv_bytes / n_kv_pages(max_ctx_tokens);
  return needs;
}

void fill_kv_cache(const Driver& drv, const Stream& stream, const DeviceMemory& memory, const ModelDesc& model, bool is_kv_f32,
                   uint32_t n_tokens, uint32_t seed) {
  constexpr uint64_t kBlockBytes = 4 << 20;
  PinnedBuffer block(drv, kBlockBytes, "random keys and values");
  fill_random_kv({block.data(), kBlockBytes}, is_kv_f32, seed);
  for (size_t layer = 0; layer < model.layers.size(); ++layer)
    for (const char* pool : {"k", "v"}) {
      // The page table is the identity, so the first positions are the first bytes of a pool.
      const uint64_t n_bytes = kv_pool_bytes(model.layers[layer].attention, n_tokens, is_kv_f32);
      const CUdeviceptr to = memory.state_ptr(fmt::format("kv.{}.{}", pool, layer));
      for (uint64_t at = 0; at < n_bytes; at += kBlockBytes)
        copy_to_device(stream, to + at, block.data(), std::min(kBlockBytes, n_bytes - at));
    }
  stream.synchronize("filling the context");
}

}  // namespace sj
