// Rotary embedding frequencies with every scaling that the supported architectures use, resolved at load.
// In: GGUF keys and rope_freqs. Out: RopeDesc. Called by the architectures' describe functions.
#pragma once

#include <cstdint>
#include <span>

#include "models/model_desc.h"

namespace sj {

enum class RopeScalingKind { kNone, kLinear, kYarn };

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1;               ///< context extension: angles shrink by it
  double original_ctx_tokens = 0;  ///< yarn only
  double attn_factor = 1;          ///< multiplies the magnitude, also without yarn
};

/// Angle of pair j at position p is p * inv_freq[j], with f_j = base^(-2j/n_rot) / divisors[j] (divisors may be empty):
///   none: f_j    linear: f_j / factor    yarn: f_j / factor * (1 - r_j) + f_j * r_j,
///   r_j = 1 - clamp((j - lo) / max(0.001, hi - lo), 0, 1), lo = max(0, floor(corr(32))), hi = min(n_rot - 1, ceil(corr(1))),
///   corr(b) = n_rot * ln(original_ctx / (2 pi b)) / (2 ln(base))                          (arXiv:2309.00071, section 3.2)
/// magnitude = attn_factor, times 1 + 0.1 ln(factor) for yarn. All in double.
/// Requires n_rot even and positive, base > 0, divisors empty or [n_rot / 2] and positive.
RopeDesc make_rope(RopePairing pairing, uint32_t n_rot, double base, const RopeScaling& scaling,
                   std::span<const double> divisors);

}  // namespace sj
