// The paged KV cache of one sequence: how many pages, how they lie, what they weigh.
// In: layer shapes and the context. Out: sizes and the page table. Called by lowering and the session.
//
// A layer has two pools, K and V: [n_pages][n_head_kv][page_tokens][head_dim], f16 or, for comparisons, f32; or pages of q8_0 as
// in kernel_src/device/kv_q8.cuh. The page table i32[n_pages] maps the page of a position to a page of the pools and is shared
// by all layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernel_src/kv_type.h"
#include "models/model_desc.h"
#include "runtime/session.h"

namespace sj {

/// Pages that hold `max_ctx_tokens` positions.
uint32_t n_kv_pages(uint32_t max_ctx_tokens);
/// Bytes of one layer's K pool; V is the same.
uint64_t kv_pool_bytes(const AttentionDesc& attention, uint32_t max_ctx_tokens, KvType type);
/// Both pools of all layers.
uint64_t kv_cache_bytes(const ModelDesc& model, uint32_t max_ctx_tokens, KvType type);
/// The table of a sequence that owns every page: i -> i.
std::vector<std::byte> identity_page_table(uint32_t max_ctx_tokens);
/// Bytes of one KV head in a page of a pool: [kKvPageTokens] rows, behind them a q8_0 page's scales.
uint64_t kv_page_bytes(KvType type, uint32_t head_dim);
/// Writes random numbers of size 0.125 to 2, either sign, to all of `out`, which begins where a page does; a q8_0 one is for
/// `head_dim`. Same seed, same numbers.
void fill_random_kv(std::span<std::byte> out, KvType type, uint32_t head_dim, uint32_t seed);

/// How the session stores keys and values. Throws kUsage for another kv_type than f16 and q8_0, and for q8_0 with float32
/// activations, which keep the cache in float32. (cpu_double says more: without q8_0, the cache is float64.)
KvType kv_type_of(const SessionOptions& options);

}  // namespace sj
