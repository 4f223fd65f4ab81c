// Arguments of sj_route (route.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct RouteArgs {
  const float* logits;      ///< [kTokens, kExperts]
  int32_t* ids;             ///< [kTokens, kUsed], descending logit, ties by lower id
  float* weights;           ///< [kTokens, kUsed], they sum to 1
  const StepState* state;
};

}  // namespace sj
