// Arguments of sj_decode_gemv (decode_gemv.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

inline constexpr int kMaxDecodeMatrices = 4;

struct DecodeGemvArgs {
  const uint8_t* weights[kMaxDecodeMatrices];   ///< row records of each matrix
  const float* bias[kMaxDecodeMatrices];        ///< [rows] f32 of each matrix, or unused
  const void* x;                                ///< NormedVec<kCols> or QuantVec<kCols>
  const float* residual;                        ///< kFinishesRows: [kRowsOut] f32
  float* y;                                     ///< [sum of rows] f32
  const float* next_norm;                       ///< kFinishesRows: [kRowsOut] f32, weight of the next RMSNorm
  void* next;                                   ///< kFinishesRows: NormedVec<kRowsOut>
  const uint8_t* router;                        ///< kExperts > 0: f32 row records [kExperts] of kRowsOut
  int64_t* scores;                              ///< of kExperts (args/router_scores.h): kFinishesRows: the products are added;
                                                ///< else they are set to zero, for a later stage to add to
};

}  // namespace sj
