#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sj {
namespace {

struct YarnRange { double lo = 0, hi = 0; };

YarnRange yarn_range(uint32_t n_rot, double base, double original_ctx_tokens) {
  const auto corr = [&](double rotations) {
    return n_rot * std::log(original_ctx_tokens / (2 * std::numbers::pi * rotations)) / (2 * std::log(base));
  };
  return {.lo = std::max(0.0, std::floor(corr(32))), .hi = std::min(n_rot - 1.0, std::ceil(corr(1)))};
}

}  // namespace

RopeDesc make_rope(RopePairing pairing, uint32_t n_rot, double base, const RopeScaling& scaling,
                   std::span<const double> divisors) {
  RopeDesc rope{.pairing = pairing, .n_rot = n_rot};
  const bool is_yarn = scaling.kind == RopeScalingKind::kYarn;
  const YarnRange range = is_yarn ? yarn_range(n_rot, base, scaling.original_ctx_tokens) : YarnRange{};
  for (uint32_t j = 0; j < n_rot / 2; ++j) {
    double f = std::pow(base, -2.0 * j / n_rot);
    if (!divisors.empty()) f /= divisors[j];
    if (scaling.kind == RopeScalingKind::kLinear) f /= scaling.factor;
    if (is_yarn) {
      const double keep = 1 - std::clamp((j - range.lo) / std::max(0.001, range.hi - range.lo), 0.0, 1.0);
      f = f / scaling.factor * (1 - keep) + f * keep;
    }
    rope.inv_freq.push_back(f);
  }
  rope.magnitude = static_cast<float>(scaling.attn_factor * (is_yarn ? 1 + 0.1 * std::log(scaling.factor) : 1.0));
  return rope;
}

}  // namespace sj
