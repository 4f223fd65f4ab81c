// The ops of models/op.h on the CPU, in float or double. Arrays are row-major; each op may use all threads of the pool.
// In: pointers into the interpreter's arena. Out: the same. Called by the interpreter.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/op.h"
#include "models/tokenizer.h"
#include "runtime/cpu/thread_pool.h"
#include "runtime/cpu/vector_kernels.h"
#include "runtime/cpu/weight_rows.h"

namespace sj {

template <class T>
struct CpuContext {
  ThreadPool& pool;
  const VectorKernels<T>& kernels;
  const RowDecoders& decoders;
  std::vector<std::vector<T>> scratch;   ///< one a thread

  CpuContext(ThreadPool& threads, const CpuIsa& isa);
  /// Room for n elements that belongs to one thread; contents do not survive a call with a larger n.
  T* scratch_of(uint32_t thread_idx, uint64_t n);
};

/// What is added to and multiplied with a matmul's result.
template <class T>
struct MatmulExtras {
  const T* bias = nullptr;                 ///< [n_experts, n_rows] or null
  std::span<const T> result_scale = {};    ///< empty, one value, or one an expert
};

/// cos and sin of the step's positions: [n_tokens, n_rot / 2] each, times the magnitude.
template <class T>
struct RopeTable {
  std::vector<T> cos, sin;
};

template <class T>
RopeTable<T> make_rope_table(const RopeDesc& rope, uint32_t first_position, uint32_t n_tokens);

/// y[t,:] = scale * E[tokens[t],:]
template <class T>
void embed(CpuContext<T>& ctx, const WeightRows& weight, T scale, std::span<const TokenId> tokens, T* y);
/// x, y: [n_rows, dim]
template <class T>
void rms_norm(CpuContext<T>& ctx, const T* weight, T eps, uint64_t n_rows, uint64_t dim, const T* x, T* y);
/// x: [n_tokens, weight.n_cols], y: [n_tokens, weight.n_rows]
template <class T>
void matmul(CpuContext<T>& ctx, const WeightRows& weight, const MatmulExtras<T>& extras, uint64_t n_tokens, const T* x, T* y);
/// x: [n_tokens, n_cols] when `x_is_shared`, else [n_tokens, n_used, n_cols]; ids: [n_tokens, n_used];
/// y: [n_tokens, n_used, n_rows]
template <class T>
void moe_matmul(CpuContext<T>& ctx, const WeightRows& weight, const MatmulExtras<T>& extras, uint64_t n_tokens, uint64_t n_used,
                uint64_t n_experts, bool x_is_shared, const T* x, const int32_t* ids, T* y);
/// x, y: [n_tokens, n_heads, head_dim]
template <class T>
void rope(CpuContext<T>& ctx, const RopeDesc& desc, const RopeTable<T>& table, uint64_t n_tokens, uint64_t n_heads,
          uint64_t head_dim, const T* x, T* y);
template <class T>
void add(uint64_t n, const T* a, const T* b, T* y);
/// gate, up, y: [n_tokens, dim]
template <class T>
void glu(CpuContext<T>& ctx, Activation activation, uint64_t n_tokens, uint64_t dim, const T* gate, const T* up, T* y);
/// logits: [n_tokens, n_experts]; ids, weights: [n_tokens, n_used]
template <class T>
void route(const RouteOp& op, uint64_t n_tokens, const T* logits, int32_t* ids, T* weights);
/// x: [n_tokens, n_used, dim], y: [n_tokens, dim]
template <class T>
void moe_combine(uint64_t n_tokens, uint64_t n_used, uint64_t dim, const T* x, const T* weights, T* y);
template <class T>
void softcap(T cap, uint64_t n, const T* x, T* y);

}  // namespace sj
