// Arguments of sj_add (add.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct AddArgs {
  const float* a;           ///< [kTokens, kPerToken]
  const float* b;           ///< [kTokens, kPerToken]
  float* y;                 ///< [kTokens, kPerToken]; may be a or b itself
  const StepState* state;
};

}  // namespace sj
