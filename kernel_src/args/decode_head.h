// Arguments of sj_decode_head (decode_head.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include "kernel_src/args/argmax.h"

#include <cstdint>
#else
#include "args/argmax.h"
#endif

namespace sj {

struct DecodeHeadArgs {
  const uint8_t* weights;   ///< row records [kRows] of kCols
  const float* bias;        ///< [kRows] f32, or unused
  const void* x;            ///< NormedVec<kCols>
  float* y;                 ///< [kRows] f32
  SampleArgs sample;        ///< unused where the head does not sample
};

}  // namespace sj
