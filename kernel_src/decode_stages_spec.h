// The stages of a fused decode step (one token): int8 activations, weights requested before the dependency wait.
// In: what lowering's decode rules gather from ops, tuned values. Out: the specs of decode_*.cu, which declare their tunables.
// Called by runtime/fusion_decode.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/base/dtype.h"
#include "jit/device_info.h"
#include "jit/kernel_spec.h"
#include "jit/tuning.h"
#include "kernel_src/kv_type.h"

namespace sj {

/// Activation buffers between stages (device/weight_dot.cuh). `dim` is a multiple of 32.
uint64_t quant_vec_bytes(uint32_t dim);
uint64_t normed_vec_bytes(uint32_t dim);
/// A router's scores (kernel_src/args/router_scores.h).
uint64_t router_score_bytes(uint32_t n_experts);

struct DecodeMatrix {
  DType dtype = DType::kQ4_K;
  uint32_t n_rows = 0;
};

struct DecodeGemvParams {
  std::vector<DecodeMatrix> matrices;   ///< 1 to 4, one below the other in y
  uint32_t n_cols = 0;
  bool is_normed = false;               ///< x is a NormedVec, else a QuantVec
  bool finishes_rows = false;           ///< adds the residual and writes the next stage's NormedVec; one matrix
  bool has_bias = false;
  float eps = 0;                        ///< of the norm behind x, with is_normed
  uint32_t n_experts = 0;               ///< 0 or those of a router, to whose scores finished rows are added; a stage that
                                        ///< finishes none sets the scores to zero
};
KernelSpec decode_gemv_spec(const DecodeGemvParams& p, const DeviceInfo& device, const Tuning& tuning = {});

struct DecodeGluParams {
  DType dtype = DType::kQ4_K;           ///< of gate and up
  uint32_t n_cols = 0, n_ff = 0;
  uint32_t n_experts = 0, n_used = 1;   ///< n_experts 0: dense
  bool is_gelu = false;
  float eps = 0;
};
KernelSpec decode_glu_spec(const DecodeGluParams& p, const DeviceInfo& device, const Tuning& tuning = {});

struct DecodeMoeDownParams {
  DType dtype = DType::kQ4_K;
  uint32_t n_rows = 0, n_ff = 0, n_experts = 0, n_used = 0;
  float eps = 0;                        ///< of the norm before the router
};
KernelSpec decode_moe_down_spec(const DecodeMoeDownParams& p, const DeviceInfo& device, const Tuning& tuning = {});

struct DecodeRouterParams {
  uint32_t n_cols = 0, n_experts = 0;
};
KernelSpec decode_router_spec(const DecodeRouterParams& p, const Tuning& tuning = {});

struct DecodeInputParams {
  uint32_t n_rows = 0;
};
KernelSpec decode_input_spec(const DecodeInputParams& p);

struct DecodeHeadParams {
  DType dtype = DType::kQ6_K;
  uint32_t n_rows = 0, n_cols = 0;
  bool has_bias = false;
  float eps = 0;
  uint32_t n_ring_slots = 0;            ///< of the token ring, where the head samples the next token; 0: it does not
};
KernelSpec decode_head_spec(const DecodeHeadParams& p, const DeviceInfo& device, const Tuning& tuning = {});

struct DecodeAttentionParams {
  uint32_t n_head = 0, n_head_kv = 0, head_dim = 0;
  uint32_t n_rot = 0;
  bool is_interleaved = false, has_qk_norm = false;
  float eps = 0, scale = 1, magnitude = 1;
  uint32_t window_tokens = 0;           ///< 0: full
  KvType kv_type = KvType::kF16;        ///< kF16 or kQ8_0
  uint32_t max_tokens = 0;              ///< positions that the launch can serve: 0 .. max_tokens - 1
};
KernelSpec decode_attention_spec(const DecodeAttentionParams& p, const DeviceInfo& device, const Tuning& tuning = {});
/// Scratch of a spec made by decode_attention_spec: partial results, and counters that must be zero at first.
uint64_t decode_attention_partial_bytes(const KernelSpec& spec);
uint64_t decode_attention_counter_bytes(const KernelSpec& spec);

// All throw kUnsupported naming the broken rule, and as tuned_spec does.

}  // namespace sj
