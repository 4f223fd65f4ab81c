#include "kernel_src/attention_spec.h"

#include <algorithm>

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec attention_spec(const AttentionParams& p) {
  require_tokens("attention", p.n_tokens);
  require_rule(p.n_head_kv != 0 && p.n_head != 0 && p.n_head % p.n_head_kv == 0,
               "attention: {} query heads are not a positive multiple of {} kv heads", p.n_head, p.n_head_kv);
  require_rule(p.head_dim != 0 && p.head_dim % 8 == 0 && p.head_dim <= 512,
               "attention: head_dim {} is not a multiple of 8 up to 512", p.head_dim);
  require_q8_blocks("attention", p.kv_type, p.head_dim);
  require_rule(p.page_tokens != 0 && p.page_tokens % 32 == 0, "attention: page of {} tokens is not a multiple of 32",
               p.page_tokens);
  const uint32_t n_warps = p.n_tokens == 1 ? 16 : 4;   // one token: few blocks, so more warps share its keys
  const double n_keys = std::max(p.cost_ctx_tokens, 1u);
  const double kv_bytes = 2.0 * p.n_head_kv * kv_row_bytes(p.kv_type, p.head_dim) * n_keys;
  return {.source = "attention.cu", .entry = "sj_attention",
          .baked  = {{"kHeads", p.n_head}, {"kHeadsKv", p.n_head_kv}, {"kHeadDim", p.head_dim}, {"kTokens", p.n_tokens},
                     {"kScale", p.scale}, {"kWindow", p.window_tokens}, {"kPageTokens", p.page_tokens},
                     {"kIsKvF32", p.kv_type == KvType::kF32}, {"kIsKvQ8", p.kv_type == KvType::kQ8_0},
                     {"kHasSinks", p.has_sinks}, {"kWarps", n_warps}},
          .launch = {.grid = {p.n_head, p.n_tokens}, .block = {32 * n_warps}},
          .cost   = {.bytes = kv_bytes + 8.0 * p.n_head * p.head_dim * p.n_tokens,
                     .flops = 4.0 * p.n_head * p.head_dim * n_keys * p.n_tokens}};
}

}  // namespace sj
