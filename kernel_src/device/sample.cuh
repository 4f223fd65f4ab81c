// Greedy sampling at the end of a step: the blocks of a launch agree on the largest logit, and the last one publishes the token
// and advances the state to the next step.
#pragma once

#include "device/ptx.cuh"
#include "device/reduce.cuh"

#include "args/argmax.h"
#include "args/step_state.h"

namespace sj {

template <uint32_t kRingSlots>
__device__ __forceinline__ void publish_token(const SampleArgs& args, uint32_t token, bool has_nan) {
  static_assert((kRingSlots & (kRingSlots - 1)) == 0);
  StepState* state = args.state;
  const uint32_t step = state->step_idx;
  state->position += state->n_tokens;
  state->n_tokens = 1;
  state->token = static_cast<int32_t>(token);
  state->step_idx = step + 1;
  if (has_nan && *args.nan_step == 0) *args.nan_step = step + 1;
  // The ring entry goes last, released to the host: whoever sees it sees nan_step as well.
  st_release_sys_u64(args.ring + step % kRingSlots, static_cast<uint64_t>(step + 1) << 32 | token);
}

/// `best`: the block's largest argmax_key. One thread of each of the launch's blocks calls it. Blocks join through an atomic
/// maximum; the last one publishes and leaves the scratch zeroed for the next launch.
template <uint32_t kRingSlots>
__device__ __forceinline__ void sample_greedy(const SampleArgs& args, uint64_t best, bool has_nan) {
  ArgmaxScratch* scratch = args.scratch;
  atomicMax(reinterpret_cast<unsigned long long*>(&scratch->best), static_cast<unsigned long long>(best));
  if (has_nan) atomicOr(&scratch->has_nan, 1u);
  if (atom_add_acq_rel_gpu_u32(&scratch->n_blocks_done, 1) != gridDim.x - 1) return;
  // Last block: the others' maxima happened before their counts. The reads are atomic, hence at L2.
  best = atomicExch(reinterpret_cast<unsigned long long*>(&scratch->best), 0ull);
  has_nan = atomicExch(&scratch->has_nan, 0u) != 0;
  scratch->n_blocks_done = 0;
  publish_token<kRingSlots>(args, argmax_index(best), has_nan);
}

}  // namespace sj
