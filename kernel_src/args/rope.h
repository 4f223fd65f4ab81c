// Arguments of sj_rope (rope.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct RopeArgs {
  const float* x;           ///< [kTokens, kHeads, kHeadDim]
  const uint64_t* turns;    ///< [kRot / 2]: turns a position, in units of 2^-64 turn (rope_turns() makes them)
  float* y;                 ///< shape of x; may be x itself
  const StepState* state;
};

}  // namespace sj
