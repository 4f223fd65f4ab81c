#include "runtime/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <type_traits>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "kernel_src/kv_type.h"
#include "models/dequant.h"

namespace sj {
namespace {

constexpr uint32_t kBlockKeys = 64;             // keys decoded at once
constexpr uint64_t kMaxScoresPerTask = 1 << 18;  // elements of one thread's score matrix
constexpr uint32_t kMaxTaskTokens = 16;

uint32_t first_visible(const AttentionOp& op, uint32_t position) {
  return op.window_tokens != 0 && position >= op.window_tokens ? position + 1 - op.window_tokens : 0;
}

/// f16(d q) of a q8_0 block: the numbers that device/kv_q8.cuh computes with.
template <class T>
void store_q8_values(const T* from, uint16_t* to) {
  float largest = 0;
  for (uint32_t i = 0; i < kKvBlockDims; ++i) {
    const float x = std::fabs(float(from[i]));
    if (!(x <= largest)) largest = x;   // a NaN stays
    if (std::isnan(x)) break;
  }
  const float scale = largest > 0 ? 127.0f / largest : 0.0f, d = half_to_float(float_to_half(largest * (1.0f / 127)));
  for (uint32_t i = 0; i < kKvBlockDims; ++i) {
    const float q = std::nearbyint(float(from[i]) * scale);
    to[i] = float_to_half(d * (std::isnan(q) ? 0.0f : std::clamp(q, -127.0f, 127.0f)));
  }
}

/// The queries of one task: some heads of one KV group, some consecutive tokens.
struct Task {
  uint32_t head_kv = 0, head_begin = 0, head_end = 0, token_begin = 0, token_end = 0;
};

template <class T>
void run_task(CpuContext<T>& ctx, uint32_t thread_idx, const AttentionOp& op, const KvCache<T>& cache, uint32_t first_position,
              const Task& task, const T* q, T* y) {
  const uint64_t dim = op.head_dim;
  const uint32_t n_heads = task.head_end - task.head_begin;
  const uint32_t n_queries = n_heads * (task.token_end - task.token_begin);
  // Blocks lie at multiples of kBlockKeys, so that the order of sums is the same however tokens are grouped.
  const uint32_t key_begin = first_visible(op, first_position + task.token_begin) / kBlockKeys * kBlockKeys;
  const uint32_t key_end = first_position + task.token_end;
  const uint64_t n_keys = key_end - key_begin;
  T* scores = ctx.scratch_of(thread_idx, n_queries * n_keys + kBlockKeys * dim);
  T* block = scores + n_queries * n_keys;

  std::vector<const T*> queries(n_queries);
  std::vector<T*> results(n_queries), score_rows(n_queries), out(n_queries);
  for (uint32_t i = 0; i < n_queries; ++i) {
    const uint64_t token = task.token_begin + i / n_heads, head = task.head_begin + i % n_heads;
    queries[i] = q + (token * op.n_head + head) * dim;
    results[i] = y + (token * op.n_head + head) * dim;
    score_rows[i] = scores + i * n_keys;
    std::fill(results[i], results[i] + dim, T(0));
  }
  for (uint32_t key = key_begin; key < key_end; key += kBlockKeys) {
    const uint32_t n = std::min(kBlockKeys, key_end - key);
    const T* keys = cache.keys(ctx.decoders, op.layer_idx, task.head_kv, key, n, block);
    for (uint32_t i = 0; i < n_queries; ++i) out[i] = score_rows[i] + (key - key_begin);
    ctx.kernels.dot_tile(keys, dim, n, queries.data(), out.data(), n_queries, dim);
  }
  std::vector<T> sums(n_queries);
  for (uint32_t i = 0; i < n_queries; ++i) {
    const uint32_t position = first_position + task.token_begin + i / n_heads;
    T* begin = score_rows[i] + (first_visible(op, position) - key_begin);
    T* end = score_rows[i] + (position + 1 - key_begin);
    T top = -std::numeric_limits<T>::infinity();
    for (T* s = begin; s != end; ++s) top = std::max(top, *s *= T(op.scale));
    for (T* s = begin; s != end; ++s) sums[i] += *s = std::exp(*s - top);
  }
  for (uint32_t key = key_begin; key < key_end; key += kBlockKeys) {
    const uint32_t n = std::min(kBlockKeys, key_end - key);
    const T* values = cache.values(ctx.decoders, op.layer_idx, task.head_kv, key, n, block);
    for (uint32_t i = 0; i < n_queries; ++i) {
      const uint32_t position = first_position + task.token_begin + i / n_heads;
      const uint32_t begin = std::max(key, first_visible(op, position)), end = std::min(key + n, position + 1);
      if (begin >= end) continue;
      ctx.kernels.add_weighted_rows(score_rows[i] + (begin - key_begin), values + (begin - key) * dim, dim, end - begin,
                                    results[i], dim);
    }
  }
  for (uint32_t i = 0; i < n_queries; ++i)
    for (uint64_t d = 0; d < dim; ++d) results[i][d] /= sums[i];
}

}  // namespace

template <class T>
KvCache<T>::KvCache(const ModelDesc& model, CpuKvType type, uint32_t max_ctx_tokens) : type_(type), max_ctx_tokens_(max_ctx_tokens) {
  double n_bytes = 0;
  const double elem_bytes = type == CpuKvType::kExact ? sizeof(T) : 2;
  for (const LayerDesc& layer : model.layers)
    if (type == CpuKvType::kQ8_0 && layer.attention.head_dim % kKvBlockDims != 0)
      throw Error(ErrorKind::kUnsupported, fmt::format("attention: head_dim {} is not a multiple of {}, as a q8_0 KV cache wants it; use "
                                                       "--kv-type f16", layer.attention.head_dim, kKvBlockDims));
  for (const LayerDesc& layer : model.layers)
    n_bytes += 2 * elem_bytes * layer.attention.n_head_kv * layer.attention.head_dim * double(max_ctx_tokens);
  try {
    for (const LayerDesc& desc : model.layers) {
      Layer layer{.n_head_kv = desc.attention.n_head_kv, .head_dim = desc.attention.head_dim};
      const uint64_t n = uint64_t{layer.n_head_kv} * layer.head_dim * max_ctx_tokens;
      if (type != CpuKvType::kExact) {
        layer.k_half.reset(new uint16_t[n]);
        layer.v_half.reset(new uint16_t[n]);
      } else {
        layer.k.reset(new T[n]);
        layer.v.reset(new T[n]);
      }
      layers_.push_back(std::move(layer));
    }
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::kUsage, fmt::format("a context of {} tokens needs {:.0f} MiB for the KV cache, more than can be had",
                                               max_ctx_tokens, n_bytes / (1 << 20)));
  }
}

template <class T>
void KvCache<T>::append(uint32_t layer_idx, uint32_t first_position, uint32_t n_tokens, const T* k, const T* v) {
  Layer& layer = layers_[layer_idx];
  const uint64_t dim = layer.head_dim;
  const auto copy = [&](const T* from, uint16_t* half, T* exact, uint64_t at) {
    if (half == nullptr) {
      std::copy(from, from + dim, exact + at);
      return;
    }
    if (type_ == CpuKvType::kQ8_0) {
      for (uint64_t d = 0; d < dim; d += kKvBlockDims) store_q8_values(from + d, half + at + d);
      return;
    }
    for (uint64_t d = 0; d < dim; ++d) half[at + d] = float_to_half(float(from[d]));
  };
  for (uint64_t t = 0; t < n_tokens; ++t)
    for (uint64_t h = 0; h < layer.n_head_kv; ++h) {
      const uint64_t from = (t * layer.n_head_kv + h) * dim, at = (h * max_ctx_tokens_ + first_position + t) * dim;
      copy(k + from, layer.k_half.get(), layer.k.get(), at);
      copy(v + from, layer.v_half.get(), layer.v.get(), at);
    }
}

template <class T>
const T* KvCache<T>::rows(const RowDecoders& decoders, const Layer& layer, const uint16_t* half, const T* exact, uint32_t head_kv,
                          uint32_t first, uint32_t n, T* scratch) const {
  const uint64_t at = (head_kv * max_ctx_tokens_ + first) * layer.head_dim, n_elems = uint64_t{n} * layer.head_dim;
  if (half == nullptr) return exact + at;
  if constexpr (std::is_same_v<T, float>) {
    decoders.half_to_float(half + at, scratch, n_elems);
  } else {
    for (uint64_t i = 0; i < n_elems; ++i) scratch[i] = half_to_float(half[at + i]);
  }
  return scratch;
}

template <class T>
const T* KvCache<T>::keys(const RowDecoders& decoders, uint32_t layer_idx, uint32_t head_kv, uint32_t first, uint32_t n,
                          T* scratch) const {
  const Layer& layer = layers_[layer_idx];
  return rows(decoders, layer, layer.k_half.get(), layer.k.get(), head_kv, first, n, scratch);
}

template <class T>
const T* KvCache<T>::values(const RowDecoders& decoders, uint32_t layer_idx, uint32_t head_kv, uint32_t first, uint32_t n,
                            T* scratch) const {
  const Layer& layer = layers_[layer_idx];
  return rows(decoders, layer, layer.v_half.get(), layer.v.get(), head_kv, first, n, scratch);
}

template <class T>
void attention(CpuContext<T>& ctx, const AttentionOp& op, const KvCache<T>& cache, uint32_t first_position, uint32_t n_tokens,
               const T* q, T* y) {
  const uint32_t group = op.n_head / op.n_head_kv;
  const uint64_t n_keys = uint64_t{first_position} + n_tokens;
  // Heads of a group share decoded keys, unless that leaves threads without work.
  const bool splits_groups = uint64_t{op.n_head_kv} * n_tokens < ctx.pool.n_threads();
  const uint32_t task_heads = splits_groups ? 1 : group;
  const uint32_t task_tokens = std::clamp<uint32_t>(uint32_t(kMaxScoresPerTask / (task_heads * n_keys)), 1, kMaxTaskTokens);
  const uint64_t n_token_blocks = (n_tokens + task_tokens - 1) / task_tokens, n_head_blocks = op.n_head / task_heads;
  ctx.pool.for_each(n_token_blocks * n_head_blocks, [&](uint64_t idx, uint32_t thread_idx) {
    const uint32_t head = uint32_t(idx % n_head_blocks) * task_heads, token = uint32_t(idx / n_head_blocks) * task_tokens;
    const Task task{.head_kv = head / group, .head_begin = head, .head_end = head + task_heads, .token_begin = token,
                    .token_end = std::min(n_tokens, token + task_tokens)};
    run_task(ctx, thread_idx, op, cache, first_position, task, q, y);
  });
}

#define SJ_INSTANTIATE_ATTENTION(T) \
  template class KvCache<T>;        \
  template void attention(CpuContext<T>&, const AttentionOp&, const KvCache<T>&, uint32_t, uint32_t, const T*, T*);
SJ_INSTANTIATE_ATTENTION(float)
SJ_INSTANTIATE_ATTENTION(double)

}  // namespace sj
