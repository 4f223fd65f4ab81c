#include "kernel_src/rope_spec.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec rope_spec(const RopeParams& p) {
  require_tokens("rope", p.n_tokens);
  require_rule(p.n_heads != 0, "rope: no heads");
  require_rule(p.head_dim != 0 && p.head_dim % 2 == 0, "rope: head_dim {} is not a positive multiple of 2", p.head_dim);
  require_rule(p.n_rot % 2 == 0 && p.n_rot <= p.head_dim, "rope: n_rot {} is not an even number up to head_dim {}", p.n_rot,
               p.head_dim);
  const uint32_t n_pairs = p.n_heads * (p.head_dim / 2);
  const uint32_t n_threads = std::min(round_up(n_pairs, 32), 128u);
  const double n = 1.0 * p.n_heads * p.head_dim * p.n_tokens;
  return {.source = "rope.cu", .entry = "sj_rope",
          .baked  = {{"kHeads", p.n_heads}, {"kHeadDim", p.head_dim}, {"kRot", p.n_rot}, {"kTokens", p.n_tokens},
                     {"kIsInterleaved", p.is_interleaved}, {"kMagnitude", p.magnitude}, {"kThreads", n_threads}},
          .launch = {.grid = {ceil_div(n_pairs, n_threads), p.n_tokens}, .block = {n_threads}},
          .cost   = {.bytes = 8.0 * n + 4.0 * p.n_rot, .flops = 16.0 * n}};
}

std::vector<uint64_t> rope_turns(std::span<const double> inv_freq) {
  std::vector<uint64_t> turns;
  turns.reserve(inv_freq.size());
  for (const double f : inv_freq) {
    require_rule(std::isfinite(f), "rope: frequency {} is not finite", f);
    const long double cycles = static_cast<long double>(f) / (2.0L * std::numbers::pi_v<long double>);
    const long double fraction = cycles - std::floor(cycles);   // whole turns of a position do nothing
    // A fraction that rounds to 1 wraps to 0, which is the same angle.
    const long double scaled = std::round(std::ldexp(fraction, 64));
    turns.push_back(scaled >= std::ldexp(1.0L, 64) ? 0 : static_cast<uint64_t>(scaled));
  }
  return turns;
}

}  // namespace sj
