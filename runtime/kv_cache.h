// The paged KV cache of one sequence: how many pages, how they lie, what they weigh.
// In: layer shapes and the context. Out: sizes and the page table. Called by lowering and the session.
//
// A layer has two pools, K and V: [n_pages][n_head_kv][page_tokens][head_dim], f16 or, for comparisons, f32. The page table i32[n_pages] maps the page
// of a position to a page of the pools and is shared by all layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "models/model_desc.h"

namespace sj {

/// Pages that hold `max_ctx_tokens` positions.
uint32_t n_kv_pages(uint32_t max_ctx_tokens);
/// Bytes of one layer's K pool; V is the same.
uint64_t kv_pool_bytes(const AttentionDesc& attention, uint32_t max_ctx_tokens, bool is_f32);
/// Both pools of all layers.
uint64_t kv_cache_bytes(const ModelDesc& model, uint32_t max_ctx_tokens, bool is_f32);
/// The table of a sequence that owns every page: i -> i.
std::vector<std::byte> identity_page_table(uint32_t max_ctx_tokens);
/// Writes random numbers of size 0.125 to 2, either sign, to all of `out`; f16, or f32 when `is_f32`. Same seed, same numbers.
void fill_random_kv(std::span<std::byte> out, bool is_f32, uint32_t seed);

}  // namespace sj
