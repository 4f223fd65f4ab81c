// Arguments of sj_decode_input (decode_input.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct DecodeInputArgs {
  const float* x;           ///< [kRows] f32, the residual stream
  const float* next_norm;   ///< [kRows] f32, weight of the next RMSNorm
  float* y;                 ///< [kRows] f32; may be x
  void* next;               ///< NormedVec<kRows>
};

}  // namespace sj
