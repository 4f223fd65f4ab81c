// Arguments of sj_kv_append (kv_append.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct KvAppendArgs {
  const float* k;              ///< [kTokens, kHeadsKv, kHeadDim]
  const float* v;              ///< [kTokens, kHeadsKv, kHeadDim]
  uint16_t* k_pages;           ///< [n_pages][kHeadsKv][kPageTokens][kHeadDim], f16 or as baked: device/kv_layout.cuh, kv_q8.cuh
  uint16_t* v_pages;           ///< same
  const int32_t* page_table;   ///< logical page -> physical page
  const StepState* state;
};

}  // namespace sj
