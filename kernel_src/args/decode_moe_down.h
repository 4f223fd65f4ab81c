// Arguments of sj_decode_moe_down (decode_moe_down.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct DecodeMoeDownArgs {
  const uint8_t* weights;   ///< row records [kExperts][kRows] of kFf
  const int64_t* scores;    ///< of the router (args/router_scores.h)
  const void* x;            ///< NormedVec<kRows>, what the router's norm reads
  const void* h;            ///< QuantVec<kUsed * kFf>
  const float* residual;    ///< [kRows] f32
  float* y;                 ///< [kRows] f32
  const float* next_norm;   ///< [kRows] f32, weight of the next RMSNorm
  void* next;               ///< NormedVec<kRows>
};

}  // namespace sj
