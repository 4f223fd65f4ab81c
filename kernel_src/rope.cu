// Rotates pair j of each head by a = position * inv_freq[j]: x0' = m (x0 cos a - x1 sin a), x1' = m (x0 sin a + x1 cos a);
// pairs (j, j + kRot/2), or (2j, 2j+1) when interleaved; dims from kRot on are copied.          (arXiv:2104.09864)
// x, y: [kTokens, kHeads, kHeadDim] f32    turns: [kRot/2] u64, turns a position in units of 2^-64 turn
// one thread two elements    spec: rope_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/rotation.cuh"
#include "device/step.cuh"

#include "args/rope.h"

namespace sj {
using namespace baked;

constexpr uint32_t kPairs = kHeadDim / 2;
static_assert(kHeadDim % 2 == 0 && kRot % 2 == 0 && kRot <= kHeadDim);

extern "C" __global__ void __launch_bounds__(kThreads) sj_rope(const RopeArgs args) {
  pdl_trigger();
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t head = item / kPairs, j = item % kPairs;
  const uint64_t turns = item < kHeads * kPairs && j < kRot / 2 ? args.turns[j] : 0;
  pdl_wait();
  const uint32_t t = blockIdx.y;
  if (item >= kHeads * kPairs || t >= valid_tokens<kTokens>(args.state)) return;

  const size_t base = (static_cast<size_t>(t) * kHeads + head) * kHeadDim;
  uint32_t first = 2 * j, second = 2 * j + 1;
  if (j < kRot / 2) {
    if constexpr (!kIsInterleaved) first = j, second = j + kRot / 2;
    const float x0 = args.x[base + first], x1 = args.x[base + second];
    const uint64_t position = static_cast<uint64_t>(args.state->position + static_cast<int32_t>(t));
    const Rotation rotation = rotation_of(position * turns);
    const float c = kMagnitude * rotation.cosine, s = kMagnitude * rotation.sine;
    args.y[base + first] = x0 * c - x1 * s;
    args.y[base + second] = x0 * s + x1 * c;
  } else {
    const float x0 = args.x[base + first], x1 = args.x[base + second];
    args.y[base + first] = x0;
    args.y[base + second] = x1;
  }
}

}  // namespace sj
