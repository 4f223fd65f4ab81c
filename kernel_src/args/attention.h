// Arguments of sj_attention (attention.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct AttentionArgs {
  const float* q;              ///< [kTokens, kHeads, kHeadDim]
  const uint16_t* k_pages;     ///< [n_pages][kHeadsKv][kPageTokens][kHeadDim], f16 or as baked: device/kv_layout.cuh, kv_q8.cuh
  const uint16_t* v_pages;     ///< same
  const int32_t* page_table;   ///< logical page -> physical page
  const float* sinks;          ///< [kHeads] extra logits that join the softmax only; unused without sinks
  float* y;                    ///< [kTokens, kHeads * kHeadDim]
  const StepState* state;
};

}  // namespace sj
