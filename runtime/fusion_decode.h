// Rules that turn half a transformer layer into three launches of a one-token step, and the head into one: int8 activations,
// weights requested before the dependency wait (kernel_src/decode_*.cu). Each refuses with a reason; what it refuses goes to
// the generic families. Listed in runtime/fusion.cpp.
#pragma once

#include <cstddef>

#include "runtime/lowering.h"

namespace sj {

/// rms_norm, q, k, v [, q norm, k norm], rope, rope, kv_append, attention, output, residual -> qkv, attention, output; the output
/// stage also multiplies with the router of the experts behind it
size_t fuse_decode_attention(LoweringContext& ctx, size_t op_idx);
/// rms_norm, router, route, gate, up, glu, down, combine, residual -> gate/up, down; the router before
/// them, where the attention rule's output stage did not score its rows
size_t fuse_decode_moe(LoweringContext& ctx, size_t op_idx);
/// rms_norm, gate, up, glu, down, residual -> gate/up, down
size_t fuse_decode_ffn(LoweringContext& ctx, size_t op_idx);
/// rms_norm, output -> one launch over the vocabulary
size_t fuse_decode_head(LoweringContext& ctx, size_t op_idx);

}  // namespace sj
