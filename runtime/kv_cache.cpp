#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "kernel_src/kv_append_spec.h"
#include "runtime/options.h"

namespace sj {
namespace {

void fill_random_q8(std::span<std::byte> out, uint32_t head_dim, uint32_t seed) {
  const uint64_t page_bytes = kv_page_bytes(KvType::kQ8_0, head_dim), scales_at = uint64_t{kKvPageTokens} * head_dim;
  constexpr uint8_t kScale[2] = {0x08, 0x24};   // the half nearest to 2 / 127: quants of 8 to 127 are 0.126 to 2
  uint64_t state = seed;
  for (size_t at = 0; at < out.size(); ++at) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const int32_t size = 8 + static_cast<int32_t>((state >> 33) % 120);
    const uint8_t quant = static_cast<uint8_t>(state >> 63 ? -size : size);
    out[at] = std::byte{at % page_bytes < scales_at ? quant : kScale[(at % page_bytes - scales_at) % 2]};
  }
}

}  // namespace

KvType kv_type_of(const SessionOptions& options) {
  if (!options.kv_type.empty() && !is_kv_type_name(options.kv_type))
    throw Error(ErrorKind::kUsage, fmt::format("kv_type (--kv-type or SPARKJIT_KV_TYPE): expected f16 or q8_0, found '{}'", options.kv_type));
  const bool is_q8 = options.kv_type == "q8_0";
  if (options.activations != ActivationMode::kF32) return is_q8 ? KvType::kQ8_0 : KvType::kF16;
  if (is_q8) throw Error(ErrorKind::kUsage, "--kv-type q8_0 doesn't go with --f32, which keeps the KV cache in float32");
  return KvType::kF32;
}

uint32_t n_kv_pages(uint32_t max_ctx_tokens) {
  return static_cast<uint32_t>((uint64_t{max_ctx_tokens} + kKvPageTokens - 1) / kKvPageTokens);
}

uint64_t kv_page_bytes(KvType type, uint32_t head_dim) { return kKvPageTokens * kv_row_bytes(type, head_dim); }

uint64_t kv_pool_bytes(const AttentionDesc& attention, uint32_t max_ctx_tokens, KvType type) {
  return uint64_t{n_kv_pages(max_ctx_tokens)} * attention.n_head_kv * kv_page_bytes(type, attention.head_dim);
}

uint64_t kv_cache_bytes(const ModelDesc& model, uint32_t max_ctx_tokens, KvType type) {
  uint64_t n_bytes = 0;
  for (const LayerDesc& layer : model.layers) n_bytes += 2 * kv_pool_bytes(layer.attention, max_ctx_tokens, type);
  return n_bytes;
}

std::vector<std::byte> identity_page_table(uint32_t max_ctx_tokens) {
  std::vector<int32_t> table(n_kv_pages(max_ctx_tokens));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  std::vector<std::byte> bytes(table.size() * sizeof(int32_t));
  std::memcpy(bytes.data(), table.data(), bytes.size());
  return bytes;
}

void fill_random_kv(std::span<std::byte> out, KvType type, uint32_t head_dim, uint32_t seed) {
  if (type == KvType::kQ8_0) return fill_random_q8(out, head_dim, seed);
  uint64_t state = seed;
  for (size_t at = 0; at + sizeof(uint16_t) <= out.size();) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;   // Knuth's generator; its high bits are the good ones
    const uint32_t draw = static_cast<uint32_t>(state >> 32);
    // Sign and mantissa at random; the exponent one of the four that cover 2^-3 to 2.
    const uint32_t sign = draw >> 31, exponent = draw >> 29 & 3, mantissa = draw & 0x3FF;
    if (type == KvType::kF32) {
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
