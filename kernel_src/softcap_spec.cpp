#include "kernel_src/softcap_spec.h"

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec softcap_spec(const SoftcapParams& p) {
  require_quads("softcap", "n_per_token", p.n_per_token);
  require_tokens("softcap", p.n_tokens);
  require_rule(p.cap > 0, "softcap: expected a positive cap, found {}", p.cap);
  constexpr uint32_t kThreads = 256;
  const double n = static_cast<double>(p.n_per_token) * p.n_tokens;
  return {.source = "softcap.cu", .entry = "sj_softcap",
          .baked  = {{"kPerToken", p.n_per_token}, {"kTokens", p.n_tokens}, {"kThreads", kThreads}, {"kCap", p.cap}},
          .launch = {.grid = {ceil_div(p.n_per_token / 4, kThreads), p.n_tokens}, .block = {kThreads}},
          .cost   = {.bytes = 8 * n, .flops = 12 * n}};
}

}  // namespace sj
