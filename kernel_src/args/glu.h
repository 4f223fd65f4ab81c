// Arguments of sj_glu (glu.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct GluArgs {
  const float* gate;        ///< [kTokens, kPerToken]
  const float* up;          ///< [kTokens, kPerToken]
  float* y;                 ///< [kTokens, kPerToken]; may be gate or up itself
  const StepState* state;
};

}  // namespace sj
