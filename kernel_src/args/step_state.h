// Device-side state of the running sequence, shared by host and device. One per session, in device memory: a captured
// graph replays unchanged because position, token and count live here and not in kernel arguments.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState {
  int32_t position;      ///< position of the step's first token = tokens already in the KV cache
  int32_t n_tokens;      ///< valid tokens of this step, <= the plan's n_tokens
  int32_t token;         ///< decode: the token to feed now; written by the sampling kernel of the previous step
  uint32_t step_idx;     ///< decode steps done since the last host write; slot of the token ring
};

}  // namespace sj
