// Arguments of sj_moe_combine (moe_combine.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct MoeCombineArgs {
  const float* x;           ///< [kTokens, kUsed, kCols]
  const float* weights;     ///< [kTokens, kUsed]
  const float* residual;    ///< [kTokens, kCols]; unused without a residual
  float* y;                 ///< [kTokens, kCols]; may be residual itself
  const StepState* state;
};

}  // namespace sj
