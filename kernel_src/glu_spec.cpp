#include "kernel_src/glu_spec.h"

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec glu_spec(const GluParams& p) {
  require_quads("glu", "n_per_token", p.n_per_token);
  require_tokens("glu", p.n_tokens);
  require_rule(p.activation == GluActivation::kSilu || p.activation == GluActivation::kGeluTanh, "glu: unknown activation {}",
               static_cast<uint32_t>(p.activation));
  constexpr uint32_t kThreads = 256;
  const double n = static_cast<double>(p.n_per_token) * p.n_tokens;
  return {.source = "glu.cu", .entry = "sj_glu",
          .baked  = {{"kPerToken", p.n_per_token}, {"kTokens", p.n_tokens}, {"kThreads", kThreads}, {"kActivation", static_cast<uint32_t>(p.activation)}},
          .launch = {.grid = {ceil_div(p.n_per_token / 4, kThreads), p.n_tokens}, .block = {kThreads}},
          .cost   = {.bytes = 12 * n, .flops = 8 * n}};
}

}  // namespace sj
