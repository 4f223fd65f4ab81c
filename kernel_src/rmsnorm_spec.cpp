#include "kernel_src/rmsnorm_spec.h"

#include <algorithm>

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec rmsnorm_spec(const RmsNormParams& p) {
  require_quads("rmsnorm", "dim", p.dim);
  require_rule(p.dim <= 16384, "rmsnorm: dim {} exceeds 16384, the row that a block keeps in registers", p.dim);
  require_rule(p.eps >= 0, "rmsnorm: expected an eps of at least 0, found {}", p.eps);
  require_rule(p.n_tokens >= 1 && p.rows_per_token >= 1, "rmsnorm: no rows ({} tokens of {} rows)", p.n_tokens,
               p.rows_per_token);
  const uint64_t n_rows = uint64_t{p.n_tokens} * p.rows_per_token;
  require_rule(n_rows <= INT32_MAX, "rmsnorm: {} rows exceed the grid", n_rows);
  const bool is_short = p.dim <= 512;   // up to 4 float4 a lane
  const uint32_t row_threads = is_short ? 32 : std::min(round_up(p.dim / 4, 32), 1024u);
  const uint32_t block_rows = is_short ? static_cast<uint32_t>(std::min<uint64_t>(n_rows, 4)) : 1;
  const double n = static_cast<double>(n_rows) * p.dim;
  return {.source = "rmsnorm.cu", .entry = "sj_rmsnorm",
          .baked  = {{"kDim", p.dim}, {"kRowsPerToken", p.rows_per_token}, {"kTokens", p.n_tokens}, {"kEps", p.eps},
                     {"kHasWeight", p.has_weight}, {"kHasResidual", p.has_residual}, {"kRowThreads", row_threads},
                     {"kBlockRows", block_rows}},
          .launch = {.grid = {ceil_div(n_rows, block_rows)}, .block = {row_threads * block_rows}},
          .cost   = {.bytes = 4.0 * n * (p.has_residual ? 3 : 2) + (p.has_weight ? 4.0 * p.dim : 0), .flops = 4.0 * n}};
}

}  // namespace sj
