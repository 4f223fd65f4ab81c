// Arguments of sj_select_rows (select_rows.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct SelectRowsArgs {
  const float* x;           ///< [kTokens, kCols]
  float* y;                 ///< [1, kCols]: the row of the last valid token
  const StepState* state;
};

}  // namespace sj
