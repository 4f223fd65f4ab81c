#include "runtime/kv_cache.h"

#include <algorithm>
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

void fill_random_kv(std::span<std::byte> out, bool is_f32, uint32_t seed) {
  uint64_t state = seed;
  for (size_t at = 0; at + sizeof(uint16_t) <= out.size();) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;   // Knuth's generator; its high bits are the good ones
    const uint32_t draw = static_cast<uint32_t>(state >> 32);
    // Sign and mantissa at random; the exponent one of the four that cover 2^-3 to 2.
    const uint32_t sign = draw >> 31, exponent = draw >> 29 & 3, mantissa = draw & 0x3FF;
    if (is_f32) {
      const uint32_t bits = sign << 31 | (124 + exponent) << 23 | mantissa << 13;
      std::memcpy(out.data() + at, &bits, std::min(sizeof bits, out.size() - at));
      at += sizeof bits;
    } else {
      const uint16_t bits = static_cast<uint16_t>(sign << 15 | (12 + exponent) << 10 | mantissa);
      std::memcpy(out.data() + at, &bits, sizeof bits);
      at += sizeof bits;
    }
  }
}

}  // namespace sj
