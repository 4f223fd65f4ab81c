// Arguments of greedy sampling (device/sample.cuh) and of sj_argmax (argmax.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

/// Meeting point of the blocks of one launch. Zeroed once at session start; every launch leaves it zero.
struct ArgmaxScratch {
  uint64_t best;            ///< largest key so far: ordered logit bits << 32 | ~token
  uint32_t n_blocks_done;
  uint32_t has_nan;
};

struct SampleArgs {
  ArgmaxScratch* scratch;   ///< device memory
  StepState* state;         ///< advanced: position += n_tokens, n_tokens = 1, token = the winner, step_idx += 1
  uint64_t* ring;           ///< pinned [kRingSlots]: slot step_idx % kRingSlots = (step_idx + 1) << 32 | token
  uint32_t* nan_step;       ///< pinned: step_idx + 1 of the first step with a NaN logit, else untouched; host zeroes it
};

struct ArgmaxArgs {
  const float* logits;      ///< [kVocab]
  SampleArgs sample;
};

}  // namespace sj
