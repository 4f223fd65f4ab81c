#include "kernel_src/embed_spec.h"

#include <algorithm>

#include "kernel_src/spec_rules.h"
#include "kernel_src/weight_layout.h"

namespace sj {

KernelSpec embed_spec(const EmbedParams& p) {
  require_tokens("embed", p.n_tokens);
  require_rule(p.n_vocab != 0, "embed: the vocabulary is empty");
  require_rule(!p.is_token_from_state || p.n_tokens == 1, "embed: the state holds one token, not {}", p.n_tokens);
  const uint64_t row_bytes = row_record_bytes(p.dtype, p.n_cols);
  const uint32_t n_threads = std::min(round_up(ceil_div(p.n_cols, 32), 32), 256u);
  return {.source = "embed.cu", .entry = "sj_embed",
          .baked  = {{"kDtype", static_cast<uint32_t>(p.dtype)}, {"kVocab", p.n_vocab}, {"kCols", p.n_cols},
                     {"kRowBytes", static_cast<int64_t>(row_bytes)}, {"kTokens", p.n_tokens}, {"kScale", p.scale},
                     {"kIsTokenFromState", p.is_token_from_state}, {"kThreads", n_threads}},
          .launch = {.grid = {p.n_tokens}, .block = {n_threads}},
          .cost   = {.bytes = p.n_tokens * (static_cast<double>(row_bytes) + 4.0 * p.n_cols),
                     .flops = 3.0 * p.n_tokens * p.n_cols}};
}

}  // namespace sj
