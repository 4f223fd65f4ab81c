// Arguments of sj_embed (embed.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct EmbedArgs {
  const uint8_t* table;     ///< row records [kVocab]
  const int32_t* tokens;    ///< [kTokens]; unused when the token comes from the state
  float* y;                 ///< [kTokens, kCols]
  const StepState* state;
};

}  // namespace sj
