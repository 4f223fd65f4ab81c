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
  uint16_t* k_pages;           ///< f16 [n_pages][kHeadsKv][kPageTokens][kHeadDim]
  uint16_t* v_pages;           ///< f16, same shape
  const int32_t* page_table;   ///< logical page -> physical page
  const StepState* state;
  float* partial;              ///< kGroups > 1: [head groups][kGroups][8][kHeadDim + 2] f32
  uint32_t* n_arrived;         ///< kGroups > 1: [head groups][kCluster], zero between launches
  void* out;                   ///< QuantVec<kHeads * kHeadDim>
};

}  // namespace sj
