// token = lowest i with the largest logits[i]; publishes it to the token ring and advances the state to the next step.
// logits: [kVocab] f32    For heads that don't sample themselves.    spec: argmax_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/reduce.cuh"
#include "device/sample.cuh"

#include "args/argmax.h"

namespace sj {
using namespace baked;

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
  sample_greedy<kRingSlots>(args.sample, best, block_has_nan != 0);
}

}  // namespace sj
