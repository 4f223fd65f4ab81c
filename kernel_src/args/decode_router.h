// Arguments of sj_decode_router (decode_router.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct DecodeRouterArgs {
  const uint8_t* weights;   ///< f32 row records [kExperts] of kCols
  const float* norm;        ///< [kCols] f32
  const float* x;           ///< [kCols] f32, the residual stream
  int64_t* scores;          ///< of kExperts (args/router_scores.h)
};

}  // namespace sj
