#include "kernel_src/kv_append_spec.h"

#include <algorithm>

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec kv_append_spec(const KvAppendParams& p) {
  require_tokens("kv_append", p.n_tokens);
  require_rule(p.n_head_kv != 0, "kv_append: no heads");
  require_rule(p.head_dim != 0 && p.head_dim % 8 == 0, "kv_append: head_dim {} is not a positive multiple of 8", p.head_dim);
  require_q8_blocks("kv_append", p.kv_type, p.head_dim);
  require_rule(p.page_tokens != 0, "kv_append: pages of no tokens");
  const uint32_t n_items = p.n_head_kv * (p.head_dim / 8);
  const uint32_t n_threads = std::min(round_up(n_items, 32), 256u);
  return {.source = "kv_append.cu", .entry = "sj_kv_append",
          .baked  = {{"kHeadsKv", p.n_head_kv}, {"kHeadDim", p.head_dim}, {"kTokens", p.n_tokens},
                     {"kPageTokens", p.page_tokens}, {"kIsKvF32", p.kv_type == KvType::kF32},
                     {"kIsKvQ8", p.kv_type == KvType::kQ8_0}, {"kThreads", n_threads}},
          .launch = {.grid = {ceil_div(n_items, n_threads), p.n_tokens}, .block = {n_threads}},
          .cost   = {.bytes = 2.0 * p.n_head_kv * (4.0 * p.head_dim + kv_row_bytes(p.kv_type, p.head_dim)) * p.n_tokens, .flops = 0}};
}

}  // namespace sj
