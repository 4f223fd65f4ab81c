#include "kernel_src/moe_combine_spec.h"

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec moe_combine_spec(const MoeCombineParams& p) {
  require_quads("moe_combine", "n_cols", p.n_cols);
  require_tokens("moe_combine", p.n_tokens);
  require_rule(p.n_used >= 1 && p.n_used <= 32, "moe_combine: expected 1 to 32 experts a token, found {}", p.n_used);
  constexpr uint32_t kThreads = 128;
  const double n = static_cast<double>(p.n_cols) * p.n_tokens;
  return {.source = "moe_combine.cu", .entry = "sj_moe_combine",
          .baked  = {{"kCols", p.n_cols}, {"kUsed", p.n_used}, {"kTokens", p.n_tokens}, {"kHasResidual", p.has_residual},
                     {"kThreads", kThreads}},
          .launch = {.grid = {ceil_div(p.n_cols / 4, kThreads), p.n_tokens}, .block = {kThreads}},
          .cost   = {.bytes = 4.0 * n * (p.n_used + 1 + (p.has_residual ? 1 : 0)) + 4.0 * p.n_used * p.n_tokens,
                     .flops = 2.0 * n * p.n_used}};
}

}  // namespace sj
