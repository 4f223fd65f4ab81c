#include "kernel_src/select_rows_spec.h"

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec select_rows_spec(const SelectRowsParams& p) {
  require_quads("select_rows", "n_cols", p.n_cols);
  require_tokens("select_rows", p.n_tokens);
  constexpr uint32_t kThreads = 256;
  return {.source = "select_rows.cu", .entry = "sj_select_rows",
          .baked  = {{"kCols", p.n_cols}, {"kTokens", p.n_tokens}, {"kThreads", kThreads}},
          .launch = {.grid = {ceil_div(p.n_cols / 4, kThreads)}, .block = {kThreads}},
          .cost   = {.bytes = 8.0 * p.n_cols, .flops = 0}};
}

}  // namespace sj
