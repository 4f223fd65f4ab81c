// Arguments of sj_softcap (softcap.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct SoftcapArgs {
  const float* x;           ///< [kTokens, kPerToken]
  float* y;                 ///< [kTokens, kPerToken]; may be x itself
  const StepState* state;
};

}  // namespace sj
