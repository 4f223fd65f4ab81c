#include "runtime/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>

namespace sj {
namespace {

constexpr uint64_t kRowsPerTask = 16;
// With few tokens a decoded row is read once or twice: decode as many rows as the first-level cache holds.
constexpr uint64_t kRowsAtOnceForFewTokens = 4;
constexpr uint64_t kFewTokens = 4;

/// Below this much work a loop runs on the calling thread.
constexpr uint64_t kMinParallelElems = 16384;

template <class T, class F>
void for_rows(CpuContext<T>& ctx, uint64_t n_rows, uint64_t elems_per_row, F&& body) {
  if (n_rows * elems_per_row < kMinParallelElems) {
    for (uint64_t i = 0; i < n_rows; ++i) body(i);
    return;
  }
  const uint64_t rows_per_task = std::max<uint64_t>(1, kMinParallelElems / 4 / std::max<uint64_t>(elems_per_row, 1));
  ctx.pool.for_each((n_rows + rows_per_task - 1) / rows_per_task, [&](uint64_t task, uint32_t) {
    for (uint64_t i = task * rows_per_task; i < std::min(n_rows, (task + 1) * rows_per_task); ++i) body(i);
  });
}

/// Rows [row_begin, row_end) of one matrix for the tokens of `x`; y[t] points at the token's row 0.
template <class T>
void matmul_rows(CpuContext<T>& ctx, uint32_t thread_idx, const WeightRows& weight, uint64_t expert, uint64_t row_begin,
                 uint64_t row_end, std::span<const T* const> x, std::span<T* const> y, const MatmulExtras<T>& extras) {
  const uint64_t step = x.size() < kFewTokens ? kRowsAtOnceForFewTokens : kRowsPerTask;
  T* scratch = ctx.scratch_of(thread_idx, step * weight.n_cols);
  std::vector<T*> out(y.size());
  for (uint64_t row = row_begin; row < row_end; row += step) {
    const uint64_t n_rows = std::min(step, row_end - row);
    const T* w = decode_rows(ctx.decoders, weight, expert, row, n_rows, scratch);
    for (size_t t = 0; t < y.size(); ++t) out[t] = y[t] + row;
    ctx.kernels.dot_tile(w, weight.n_cols, n_rows, x.data(), out.data(), x.size(), weight.n_cols);
  }
  const std::span<const T> scales = extras.result_scale;
  const T scale = scales.empty() ? T(1) : scales[scales.size() > 1 ? expert : 0];
  if (scales.empty() && extras.bias == nullptr) return;
  for (T* row : y)
    for (uint64_t m = row_begin; m < row_end; ++m)
      row[m] = row[m] * scale + (extras.bias != nullptr ? extras.bias[expert * weight.n_rows + m] : T(0));
}

template <class T>
T activate(Activation activation, T x) {
  if (activation == Activation::kSilu) return x / (T(1) + std::exp(-x));
  constexpr T kSqrt2OverPi = T(0.7978845608028654), kCubic = T(0.044715);
  return T(0.5) * x * (T(1) + std::tanh(kSqrt2OverPi * x * (T(1) + kCubic * x * x)));
}

}  // namespace

template <class T>
CpuContext<T>::CpuContext(ThreadPool& threads, const CpuIsa& isa)
    : pool(threads), kernels([&]() -> const VectorKernels<T>& {
        if constexpr (std::is_same_v<T, float>) return *isa.f32;
        else return *isa.f64;
      }()),
      decoders(*isa.decoders), scratch(threads.n_threads()) {}

template <class T>
T* CpuContext<T>::scratch_of(uint32_t thread_idx, uint64_t n) {
  std::vector<T>& room = scratch[thread_idx];
  if (room.size() < n) room.resize(n);
  return room.data();
}

template <class T>
RopeTable<T> make_rope_table(const RopeDesc& rope, uint32_t first_position, uint32_t n_tokens) {
  RopeTable<T> table;
  table.cos.reserve(uint64_t{n_tokens} * rope.inv_freq.size());
  table.sin.reserve(uint64_t{n_tokens} * rope.inv_freq.size());
  for (uint32_t t = 0; t < n_tokens; ++t)
    for (double f : rope.inv_freq) {
      const double angle = (double(first_position) + t) * f;
      table.cos.push_back(T(std::cos(angle) * rope.magnitude));
      table.sin.push_back(T(std::sin(angle) * rope.magnitude));
    }
  return table;
}

template <class T>
void embed(CpuContext<T>& ctx, const WeightRows& weight, T scale, std::span<const TokenId> tokens, T* y) {
  std::vector<T> room(weight.n_cols);
  for (size_t t = 0; t < tokens.size(); ++t) {
    const T* row = decode_rows(ctx.decoders, weight, 0, uint64_t(tokens[t]), 1, room.data());
    for (uint64_t i = 0; i < weight.n_cols; ++i) y[t * weight.n_cols + i] = row[i] * scale;
  }
}

template <class T>
void rms_norm(CpuContext<T>& ctx, const T* weight, T eps, uint64_t n_rows, uint64_t dim, const T* x, T* y) {
  for_rows(ctx, n_rows, dim, [&](uint64_t row) {
    const T* in = x + row * dim;
    double sum = 0;
    for (uint64_t i = 0; i < dim; ++i) sum += double(in[i]) * double(in[i]);
    const T scale = T(1 / std::sqrt(sum / double(dim) + double(eps)));
    for (uint64_t i = 0; i < dim; ++i) y[row * dim + i] = in[i] * scale * weight[i];
  });
}

template <class T>
void matmul(CpuContext<T>& ctx, const WeightRows& weight, const MatmulExtras<T>& extras, uint64_t n_tokens, const T* x, T* y) {
  std::vector<const T*> xs(n_tokens);
  std::vector<T*> ys(n_tokens);
  for (uint64_t t = 0; t < n_tokens; ++t) xs[t] = x + t * weight.n_cols, ys[t] = y + t * weight.n_rows;
  ctx.pool.for_each((weight.n_rows + kRowsPerTask - 1) / kRowsPerTask, [&](uint64_t task, uint32_t thread_idx) {
    const uint64_t begin = task * kRowsPerTask, end = std::min(weight.n_rows, begin + kRowsPerTask);
    matmul_rows<T>(ctx, thread_idx, weight, 0, begin, end, xs, ys, extras);
  });
}

template <class T>
void moe_matmul(CpuContext<T>& ctx, const WeightRows& weight, const MatmulExtras<T>& extras, uint64_t n_tokens, uint64_t n_used,
                uint64_t n_experts, bool x_is_shared, const T* x, const int32_t* ids, T* y) {
  std::vector<std::vector<const T*>> xs(n_experts);
  std::vector<std::vector<T*>> ys(n_experts);
  for (uint64_t slot = 0; slot < n_tokens * n_used; ++slot) {
    const size_t expert = size_t(ids[slot]);
    xs[expert].push_back(x + (x_is_shared ? slot / n_used : slot) * weight.n_cols);
    ys[expert].push_back(y + slot * weight.n_rows);
  }
  std::vector<uint64_t> active;
  for (uint64_t e = 0; e < n_experts; ++e)
    if (!xs[e].empty()) active.push_back(e);
  const uint64_t tasks_per_expert = (weight.n_rows + kRowsPerTask - 1) / kRowsPerTask;
  ctx.pool.for_each(active.size() * tasks_per_expert, [&](uint64_t task, uint32_t thread_idx) {
    const uint64_t expert = active[task / tasks_per_expert];
    const uint64_t begin = task % tasks_per_expert * kRowsPerTask, end = std::min(weight.n_rows, begin + kRowsPerTask);
    matmul_rows<T>(ctx, thread_idx, weight, expert, begin, end, xs[expert], ys[expert], extras);
  });
}

template <class T>
void rope(CpuContext<T>& ctx, const RopeDesc& desc, const RopeTable<T>& table, uint64_t n_tokens, uint64_t n_heads,
          uint64_t head_dim, const T* x, T* y) {
  const uint64_t half = desc.n_rot / 2;
  const bool is_interleaved = desc.pairing == RopePairing::kInterleaved;
  for_rows(ctx, n_tokens * n_heads, head_dim, [&](uint64_t row) {
    const T* in = x + row * head_dim;
    T* out = y + row * head_dim;
    const T* cos = table.cos.data() + row / n_heads * half;
    const T* sin = table.sin.data() + row / n_heads * half;
    for (uint64_t j = 0; j < half; ++j) {
      const uint64_t i0 = is_interleaved ? 2 * j : j, i1 = is_interleaved ? 2 * j + 1 : j + half;
      const T x0 = in[i0], x1 = in[i1];
      out[i0] = x0 * cos[j] - x1 * sin[j];
      out[i1] = x0 * sin[j] + x1 * cos[j];
    }
    std::copy(in + desc.n_rot, in + head_dim, out + desc.n_rot);
  });
}

template <class T>
void add(uint64_t n, const T* a, const T* b, T* y) {
  for (uint64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

template <class T>
void glu(CpuContext<T>& ctx, Activation activation, uint64_t n_tokens, uint64_t dim, const T* gate, const T* up, T* y) {
  constexpr uint64_t kChunk = 512;
  const uint64_t n = n_tokens * dim;
  for_rows(ctx, (n + kChunk - 1) / kChunk, kChunk * 16, [&](uint64_t chunk) {
    for (uint64_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) y[i] = activate(activation, gate[i]) * up[i];
  });
}

template <class T>
void route(const RouteOp& op, uint64_t n_tokens, const T* logits, int32_t* ids, T* weights) {
  std::vector<int32_t> order(op.n_experts);
  for (uint64_t t = 0; t < n_tokens; ++t) {
    const T* row = logits + t * op.n_experts;
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + op.n_used, order.end(),
                      [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    T sum = 0;
    for (uint32_t s = 0; s < op.n_used; ++s) {
      ids[t * op.n_used + s] = order[s];
      sum += weights[t * op.n_used + s] = std::exp(row[order[s]] - row[order[0]]);
    }
    for (uint32_t s = 0; s < op.n_used; ++s) weights[t * op.n_used + s] /= sum;
  }
}

template <class T>
void moe_combine(uint64_t n_tokens, uint64_t n_used, uint64_t dim, const T* x, const T* weights, T* y) {
  for (uint64_t t = 0; t < n_tokens; ++t) {
    T* out = y + t * dim;
    std::fill(out, out + dim, T(0));
    for (uint64_t s = 0; s < n_used; ++s) {
      const T w = weights[t * n_used + s];
      const T* in = x + (t * n_used + s) * dim;
      for (uint64_t i = 0; i < dim; ++i) out[i] += w * in[i];
    }
  }
}

template <class T>
void softcap(T cap, uint64_t n, const T* x, T* y) {
  for (uint64_t i = 0; i < n; ++i) y[i] = cap * std::tanh(x[i] / cap);
}

#define SJ_INSTANTIATE_CPU_OPS(T)                                                                                             \
  template struct CpuContext<T>;                                                                                              \
  template RopeTable<T> make_rope_table<T>(const RopeDesc&, uint32_t, uint32_t);                                              \
  template void embed(CpuContext<T>&, const WeightRows&, T, std::span<const TokenId>, T*);                                    \
  template void rms_norm(CpuContext<T>&, const T*, T, uint64_t, uint64_t, const T*, T*);                                      \
  template void matmul(CpuContext<T>&, const WeightRows&, const MatmulExtras<T>&, uint64_t, const T*, T*);                    \
  template void moe_matmul(CpuContext<T>&, const WeightRows&, const MatmulExtras<T>&, uint64_t, uint64_t, uint64_t, bool,     \
                           const T*, const int32_t*, T*);                                                                     \
  template void rope(CpuContext<T>&, const RopeDesc&, const RopeTable<T>&, uint64_t, uint64_t, uint64_t, const T*, T*);       \
  template void add(uint64_t, const T*, const T*, T*);                                                                        \
  template void glu(CpuContext<T>&, Activation, uint64_t, uint64_t, const T*, const T*, T*);                                  \
  template void route(const RouteOp&, uint64_t, const T*, int32_t*, T*);                                                      \
  template void moe_combine(uint64_t, uint64_t, uint64_t, const T*, const T*, T*);                                            \
  template void softcap(T, uint64_t, const T*, T*);
SJ_INSTANTIATE_CPU_OPS(float)
SJ_INSTANTIATE_CPU_OPS(double)

}  // namespace sj
