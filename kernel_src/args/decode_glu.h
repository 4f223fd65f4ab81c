// Arguments of sj_decode_glu (decode_glu.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct DecodeGluArgs {
  const uint8_t* gate;    ///< row records [n_experts][kFf] of kCols
  const uint8_t* up;      ///< row records, same shape
  const void* x;          ///< NormedVec<kCols>
  const int64_t* scores;  ///< of the router (args/router_scores.h); unused without experts
  void* h;                ///< QuantVec<kUsed * kFf>
};

}  // namespace sj
