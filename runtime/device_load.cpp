#include "runtime/device_load.h"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/kv_cache.h"

namespace sj {

std::unique_ptr<WeightSource> weight_source(const OpenedModel& opened, const DeviceInfo& device) {
  if (opened.weight_seed) return std::make_unique<SyntheticWeights>(opened.file, *opened.weight_seed);
  return std::make_unique<FileWeights>(opened.file, device.is_integrated);
}

MemoryNeeds memory_needs(const ModelDesc& model, uint32_t max_ctx_tokens, KvType kv_type, const WeightPlan& weights, const StatePlan& states,
                         std::span<const ArenaPlan> arenas) {
  MemoryNeeds needs{.weight_bytes = weights.n_bytes(), .kv_bytes = kv_cache_bytes(model, max_ctx_tokens, kv_type)};
  needs.state_bytes = states.device_bytes - std::min(states.device_bytes, needs.kv_bytes);
  for (const ArenaPlan& arena : arenas) needs.arena_bytes = std::max(needs.arena_bytes, arena.n_bytes);
  needs.kv_bytes_per_page = needs.kv_bytes / n_kv_pages(max_ctx_tokens);
  return needs;
}

void fill_kv_cache(const Driver& drv, const Stream& stream, const DeviceMemory& memory, const ModelDesc& model, KvType kv_type,
                   uint32_t n_tokens, uint32_t seed) {
  constexpr uint64_t kMaxBlockBytes = 4 << 20;
  PinnedBuffer block(drv, kMaxBlockBytes, "random keys and values");
  uint32_t filled_dim = 0;
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    const uint32_t head_dim = model.layers[layer].attention.head_dim;
    const uint64_t page_bytes = kv_page_bytes(kv_type, head_dim), block_bytes = kMaxBlockBytes / page_bytes * page_bytes;
    if (head_dim != filled_dim) {
      stream.synchronize("filling the context");   // the block may still be being copied
      fill_random_kv({block.data(), block_bytes}, kv_type, head_dim, seed);
      filled_dim = head_dim;
    }
    for (const char* pool : {"k", "v"}) {
      // The page table is the identity, so the first positions are the first bytes of a pool.
      const uint64_t n_bytes = kv_pool_bytes(model.layers[layer].attention, n_tokens, kv_type);
      const CUdeviceptr to = memory.state_ptr(fmt::format("kv.{}.{}", pool, layer));
      for (uint64_t at = 0; at < n_bytes; at += block_bytes)
        copy_to_device(stream, to + at, block.data(), std::min(block_bytes, n_bytes - at));
    }
  }
  stream.synchronize("filling the context");
}

}  // namespace sj
