// Rotary embedding. In: RopeParams (RopeOp). Out: the spec of rope.cu and its frequency table. Called by lowering.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jit/kernel_spec.h"

namespace sj {

struct RopeParams {
  uint32_t n_heads = 0, head_dim = 0;
  uint32_t n_rot = 0;              ///< rotated dims a head, even, <= head_dim; the rest is copied
  uint32_t n_tokens = 1;
  bool is_interleaved = false;     ///< pairs (2j, 2j+1) instead of (j, j + n_rot/2)
  float magnitude = 1;             ///< multiplies cos and sin
};

/// Rotates pair j of every head by position * inv_freq[j]; position = StepState::position + token index.
/// Throws kUnsupported naming the broken rule.
KernelSpec rope_spec(const RopeParams& p);

/// The table that RopeArgs::turns points to: frac(inv_freq[j] / 2 pi) in units of 2^-64 turn. position * entry wraps to
/// the exact fraction of a turn, so the angle's error is that of inv_freq itself plus 2^-24 turn, at any position.
std::vector<uint64_t> rope_turns(std::span<const double> inv_freq);

}  // namespace sj
