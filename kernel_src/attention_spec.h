// Attention over the paged KV cache. In: AttentionParams (AttentionOp). Out: the spec of attention.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"
#include "kernel_src/kv_append_spec.h"

namespace sj {

struct AttentionParams {
  uint32_t n_head = 0, n_head_kv = 0, head_dim = 0;   ///< n_head a multiple of n_head_kv; head_dim a multiple of 8, <= 512
  uint32_t n_tokens = 1;
  float scale = 1;                 ///< multiplies q . k
  uint32_t window_tokens = 0;      ///< 0: full; else key visible iff 0 <= p_q - p_k < window_tokens
  uint32_t page_tokens = kKvPageTokens;
  KvType kv_type = KvType::kF16;   ///< q8_0: head_dim a multiple of 32
  bool has_sinks = false;          ///< per-head logit in the softmax's denominator
  uint32_t cost_ctx_tokens = 0;    ///< keys a token in Cost, which can't know the position; changes nothing else
};

/// Causal attention over the layer's cache, which must already hold the step's own k and v.
/// Throws kUnsupported naming the broken rule.
KernelSpec attention_spec(const AttentionParams& p);

}  // namespace sj
