// Arguments of sj_gemv (gemv.cu) and sj_gemm (gemm.cu): one matrix product, two algorithms.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct MatmulArgs {
  const uint8_t* weight;       ///< row records [kRows], each kCols weights
  const float* x;              ///< [kTokens, kCols]
  const float* bias;           ///< [kRows]; unused without a bias
  const float* result_scale;   ///< [1]; unused without a result scale
  const float* residual;       ///< [kTokens, kRows]; unused without a residual
  float* y;                    ///< [kTokens, kRows]; may be residual itself, never x
  const StepState* state;
};

}  // namespace sj
