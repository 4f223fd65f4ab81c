#include "kernel_src/add_spec.h"

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec add_spec(const AddParams& p) {
  require_quads("add", "n_per_token", p.n_per_token);
  require_tokens("add", p.n_tokens);
  constexpr uint32_t kThreads = 256;
  const double n = static_cast<double>(p.n_per_token) * p.n_tokens;
  return {.source = "add.cu", .entry = "sj_add",
          .baked  = {{"kPerToken", p.n_per_token}, {"kTokens", p.n_tokens}, {"kThreads", kThreads}},
          .launch = {.grid = {ceil_div(p.n_per_token / 4, kThreads), p.n_tokens}, .block = {kThreads}},
          .cost   = {.bytes = 12 * n, .flops = 1 * n}};
}

}  // namespace sj
