// Append to the paged KV cache. In: KvAppendParams (KvAppendOp). Out: the spec of kv_append.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

inline constexpr uint32_t kKvPageTokens = 64;   ///< tokens of one KV page

struct KvAppendParams {
  uint32_t n_head_kv = 0, head_dim = 0;
  uint32_t n_tokens = 1;
  uint32_t page_tokens = kKvPageTokens;
  bool is_kv_f32 = false;          ///< the cache holds floats instead of halves (comparisons)
};

/// Stores k and v of the step's valid tokens, rounded to f16, at StepState::position + token index.
/// Throws kUnsupported naming the broken rule.
KernelSpec kv_append_spec(const KvAppendParams& p);

}  // namespace sj
