#include "kernel_src/route_spec.h"

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec route_spec(const RouteParams& p) {
  require_tokens("route", p.n_tokens);
  require_rule(p.n_experts >= 1 && p.n_experts <= 512, "route: expected 1 to 512 experts, found {}", p.n_experts);
  require_rule(p.n_used >= 1 && p.n_used <= 32 && p.n_used <= p.n_experts,
               "route: expected 1 to min(32, {}) experts a token, found {}", p.n_experts, p.n_used);
  const uint32_t n_warps = p.n_tokens < 4 ? p.n_tokens : 4;   // a warp a token
  return {.source = "route.cu", .entry = "sj_route",
          .baked  = {{"kExperts", p.n_experts}, {"kUsed", p.n_used}, {"kTokens", p.n_tokens}, {"kWarps", n_warps}},
          .launch = {.grid = {ceil_div(p.n_tokens, n_warps)}, .block = {32 * n_warps}},
          .cost   = {.bytes = 4.0 * p.n_tokens * (p.n_experts + 2.0 * p.n_used),
                     .flops = 1.0 * p.n_tokens * p.n_experts * p.n_used}};
}

}  // namespace sj
