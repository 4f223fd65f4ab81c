// Arguments of sj_moe_matmul (moe_matmul.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct MoeMatmulArgs {
  const uint8_t* weight;       ///< row records [kExperts][kExpertStrideRows], the first kRows of each are used
  const float* x;              ///< [kTokens, kCols], or [kTokens, kUsed, kCols] when x differs from slot to slot
  const int32_t* ids;          ///< [kTokens, kUsed]
  const float* bias;           ///< [kExperts, kRows]; unused without a bias
  const float* result_scale;   ///< [kExperts]; unused without a result scale
  float* y;                    ///< [kTokens, kUsed, kRows]
  const StepState* state;
};

}  // namespace sj
