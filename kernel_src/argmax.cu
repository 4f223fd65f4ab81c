// token = lowest i with the largest logits[i]; publishes it to the token ring and advances the state to the next step.
// logits: [kVocab] f32    Blocks join through an atomic maximum of (ordered logit, ~index); the last one publishes and
// leaves the scratch zeroed for the next launch.    spec: argmax_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/reduce.cuh"

#include "args/argmax.h"
#include "args/step_state.h"

namespace sj {
using namespace baked;

static_assert((kRingSlots & (kRingSlots - 1)) == 0);

__device__ __forceinline__ void publish(const ArgmaxArgs& args, uint32_t token, bool has_nan) {
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

extern "C" __global__ void __launch_bounds__(kThreads) sj_argmax(const ArgmaxArgs args) {
  __shared__ uint64_t warp_best[kThreads / kWarpLanes];
  __shared__ uint32_t block_has_nan;
  if (threadIdx.x == 0) block_has_nan = 0;
  pdl_trigger();
  pdl_wait();
  uint64_t best = 0;
  bool has_nan = false;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < kVocab; i += kBlocks * kThreads) {
    const float logit = args.logits[i];
    has_nan |= logit != logit;
    const uint64_t key = argmax_key(logit, i);
    best = key > best ? key : best;
  }
  best = warp_max(best);
  __syncthreads();  // block_has_nan is zero
  if (threadIdx.x % kWarpLanes == 0) warp_best[threadIdx.x / kWarpLanes] = best;
  if (has_nan) atomicOr(&block_has_nan, 1u);
  __syncthreads();  // every warp's best and flag are in shared memory
  if (threadIdx.x != 0) return;

#pragma unroll
  for (uint32_t w = 0; w < kThreads / kWarpLanes; ++w) best = warp_best[w] > best ? warp_best[w] : best;
  ArgmaxScratch* scratch = args.scratch;
  atomicMax(reinterpret_cast<unsigned long long*>(&scratch->best), static_cast<unsigned long long>(best));
  if (block_has_nan != 0) atomicOr(&scratch->has_nan, 1u);
  if (atom_add_acq_rel_gpu_u32(&scratch->n_blocks_done, 1) != kBlocks - 1) return;
  // Last block: the others' maxima happened before their counts. The reads are atomic, hence at L2.
  best = atomicExch(reinterpret_cast<unsigned long long*>(&scratch->best), 0ull);
  has_nan = atomicExch(&scratch->has_nan, 0u) != 0;
  scratch->n_blocks_done = 0;
  publish(args, argmax_index(best), has_nan);
}

}  // namespace sj
