// Arguments of sj_rmsnorm (rmsnorm.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct RmsNormArgs {
  const float* x;           ///< [kTokens, kRowsPerToken, kDim]
  const float* weight;      ///< [kDim]; unused without a weight
  const float* residual;    ///< shape of x; unused without a residual
  float* y;                 ///< shape of x; may be x or residual itself
  const StepState* state;
};

}  // namespace sj
