// The inner loops of the CPU backend, compiled once for each instruction set and chosen at start.
// In: plain arrays. Out: plain arrays. Called by the CPU ops. Every result is summed in an order that depends on the
// length only, so that splitting a batch otherwise changes no bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jit/base/dtype.h"

namespace sj {

template <class T>
struct VectorKernels {
  /// y[t][r] = sum_k w[r * w_stride + k] * x[t][k], k < n, for all r < n_rows and t < n_tokens.
  void (*dot_tile)(const T* w, size_t w_stride, size_t n_rows, const T* const* x, T* const* y, size_t n_tokens, size_t n);
  /// acc[i] += sum_r p[r] * rows[r * stride + i], i < n, added in the order of r.
  void (*add_weighted_rows)(const T* p, const T* rows, size_t stride, size_t n_rows, T* acc, size_t n);
};

struct RowDecoders {
  /// Same values as dequantise(), faster. False for types that have no fast path; nothing is written then.
  bool (*decode)(DType dtype, const uint8_t* src, float* dst, size_t n);
  void (*half_to_float)(const uint16_t* src, float* dst, size_t n);
};

struct CpuIsa {
  const char* name;
  const VectorKernels<float>* f32;
  const VectorKernels<double>* f64;
  const RowDecoders* decoders;
};

/// The widest instruction set that this processor has.
const CpuIsa& best_cpu_isa();
/// All that this processor can run, narrowest first; for tests.
size_t n_cpu_isas();
const CpuIsa& cpu_isa(size_t idx);

}  // namespace sj
