// KV cache of one sequence on the CPU, and attention over it. In: k, v, q of a step. Out: attention results.
// Called by the interpreter.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "models/model_desc.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/cpu_ops.h"

namespace sj {

/// Keys and values of all layers, by position: half (kF16 and kQ8_0) or T, [n_head_kv, max_ctx_tokens, head_dim] each. Pages that no token
/// has reached cost no memory.
template <class T>
class KvCache {
 public:
  /// Throws kUsage when the memory can't be had, saying how much it is; kUnsupported for q8_0 with a head dim that is not a
  /// multiple of 32.
  KvCache(const ModelDesc& model, CpuKvType type, uint32_t max_ctx_tokens);

  /// k, v: [n_tokens, n_head_kv, head_dim] of positions first_position, ...
  void append(uint32_t layer_idx, uint32_t first_position, uint32_t n_tokens, const T* k, const T* v);
  /// n rows [n, head_dim] of a KV head from position `first`; either in place or decoded into `scratch`.
  const T* keys(const RowDecoders& decoders, uint32_t layer_idx, uint32_t head_kv, uint32_t first, uint32_t n, T* scratch) const;
  const T* values(const RowDecoders& decoders, uint32_t layer_idx, uint32_t head_kv, uint32_t first, uint32_t n, T* scratch) const;

 private:
  struct Layer {
    uint32_t n_head_kv = 0, head_dim = 0;
    std::unique_ptr<uint16_t[]> k_half, v_half;
    std::unique_ptr<T[]> k, v;
  };
  const T* rows(const RowDecoders& decoders, const Layer& layer, const uint16_t* half, const T* exact, uint32_t head_kv,
                uint32_t first, uint32_t n, T* scratch) const;

  std::vector<Layer> layers_;
  CpuKvType type_;
  uint64_t max_ctx_tokens_ = 0;
};

/// q: [n_tokens, n_head, head_dim] at positions first_position, ...; y like q. Keys up to each token's own position must have
/// been appended. Sums run in the order of positions, so neither batch nor threads change a bit.
template <class T>
void attention(CpuContext<T>& ctx, const AttentionOp& op, const KvCache<T>& cache, uint32_t first_position, uint32_t n_tokens,
               const T* q, T* y);

}  // namespace sj
