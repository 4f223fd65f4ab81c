// Arguments of sj_decode_attention (decode_attention.cu).
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

struct StepState;

struct DecodeAttentionArgs {
  const float* qkv;            ///< [kHeads * d | kHeadsKv * d | kHeadsKv * d] f32, d = kHeadDim: q, k, v of the new token
  const float* q_norm;         ///< [kHeadDim] f32, or unused
  const float* k_norm;         ///< [kHeadDim] f32, or unused
  const uint64_t* turns;       ///< [kRot / 2] angle a position, in 2^-64 turn
  uint16_t* k_pages;           ///< f16 [n_pages][kHeadsKv][kPageTokens][kHeadDim], a row's units as in device/kv_layout.cuh, or
                               ///< q8_0 pages: device/kv_q8.cuh
  uint16_t* v_pages;           ///< same
  const int32_t* page_table;   ///< logical page -> physical page
  const StepState* state;
  float* partial;              ///< kGroups > 1: [head groups][8][kGroups][kHeadDim + 4] f32
  uint32_t* n_arrived;         ///< kGroups > 1: [head groups][8], zero between launches
  void* out;                   ///< QuantVec<kHeads * kHeadDim>
  uint32_t n_table_pages;      ///< entries of page_table, positive
};

}  // namespace sj
