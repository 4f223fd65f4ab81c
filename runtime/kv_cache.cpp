#include "runtime/kv_cache.h"

#include <cstring>

#include "kernel_src/kv_append_spec.h"

namespace sj {

uint32_t n_kv_pages(uint32_t max_ctx_tokens) {
  return static_cast<uint32_t>((uint64_t{max_ctx_tokens} + kKvPageTokens - 1) / kKvPageTokens);
}

uint64_t kv_pool_bytes(const AttentionDesc& attention, uint32_t max_ctx_tokens, bool is_f32) {
  const uint64_t elem_bytes = is_f32 ? 4 : 2;
  return uint64_t{n_kv_pages(max_ctx_tokens)} * kKvPageTokens * attention.n_head_kv * attention.head_dim * elem_bytes;
}

uint64_t kv_cache_bytes(const ModelDesc& model, uint32_t max_ctx_tokens, bool is_f32) {
  uint64_t n_bytes = 0;
  for (const LayerDesc& layer : model.layers) n_bytes += 2 * kv_pool_bytes(layer.attention, max_ctx_tokens, is_f32);
  return n_bytes;
}

std::vector<std::byte> identity_page_table(uint32_t max_ctx_tokens) {
  std::vector<int32_t> table(n_kv_pages(max_ctx_tokens));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  std::vector<std::byte> bytes(table.size() * sizeof(int32_t));
  std::memcpy(bytes.data(), table.data(), bytes.size());
  return bytes;
}

}  // namespace sj
