// Append to the paged KV cache. In: KvAppendParams (KvAppendOp). Out: the spec of kv_append.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"
#include "kernel_src/kv_type.h"

namespace sj {

inline constexpr uint32_t kKvPageTokens = 64;   ///< tokens of one KV page

struct KvAppendParams {
  uint32_t n_head_kv = 0, head_dim = 0;
  uint32_t n_tokens = 1;
  uint32_t page_tokens = kKvPageTokens;
  KvType kv_type = KvType::kF16;   ///< q8_0: head_dim a multiple of 32
};

/// Stores k and v of the step's valid tokens, rounded to the cache's type, at StepState::position + token index.
/// Throws kUnsupported naming the broken rule.
KernelSpec kv_append_spec(const KvAppendParams& p);

}  // namespace sj
