// Compiled once an instruction set (SJ_ISA names the namespace), with fused multiply-add where the machine has it.
// Includes no header with inline functions of its own: the linker could pick a copy that only the widest machine can run.
#include "runtime/cpu/vector_kernels.h"

namespace sj::SJ_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 4, kTileTokens = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTileRows = 4, kTileTokens = 2;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 4, kTileTokens = 4;
#else
constexpr int kVectorBytes = 16, kTileRows = 4, kTileTokens = 2;
#endif

template <class T>
struct Lanes {
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  static constexpr size_t kN = kVectorBytes / sizeof(T);

  static inline Vec load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static inline void store(T* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static inline Vec load_first(const T* p, size_t n) {
    Vec v = {};
    for (size_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  static inline T sum(Vec v) {
    T part[kN];
    for (size_t i = 0; i < kN; ++i) part[i] = v[i];
    for (size_t half = kN / 2; half > 0; half /= 2)
      for (size_t i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
  }
};

/// One vector accumulator a result, so the order of additions does not depend on kRows and kTokens.
template <class T, int kRows, int kTokens>
inline void dot_block(const T* w, size_t w_stride, const T* const* x, T* const* y, size_t row, size_t n) {
  using L = Lanes<T>;
  typename L::Vec acc[kRows][kTokens] = {};
  size_t k = 0;
  for (; k + L::kN <= n; k += L::kN) {
    typename L::Vec wv[kRows];
    for (int r = 0; r < kRows; ++r) wv[r] = L::load(w + size_t(r) * w_stride + k);
    for (int t = 0; t < kTokens; ++t) {
      const typename L::Vec xv = L::load(x[t] + k);
      for (int r = 0; r < kRows; ++r) acc[r][t] += wv[r] * xv;
    }
  }
  if (k < n) {
    for (int t = 0; t < kTokens; ++t) {
      const typename L::Vec xv = L::load_first(x[t] + k, n - k);
      for (int r = 0; r < kRows; ++r) acc[r][t] += L::load_first(w + size_t(r) * w_stride + k, n - k) * xv;
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) y[t][row + size_t(r)] = L::sum(acc[r][t]);
}

template <class T, int kTokens>
inline void dot_rows(const T* w, size_t w_stride, size_t n_rows, const T* const* x, T* const* y, size_t n) {
  size_t r = 0;
  for (; r + kTileRows <= n_rows; r += kTileRows) dot_block<T, kTileRows, kTokens>(w + r * w_stride, w_stride, x, y, r, n);
  for (; r < n_rows; ++r) dot_block<T, 1, kTokens>(w + r * w_stride, w_stride, x, y, r, n);
}

template <class T>
void dot_tile(const T* w, size_t w_stride, size_t n_rows, const T* const* x, T* const* y, size_t n_tokens, size_t n) {
  size_t t = 0;
  for (; t + kTileTokens <= n_tokens; t += kTileTokens) dot_rows<T, kTileTokens>(w, w_stride, n_rows, x + t, y + t, n);
  for (; t < n_tokens; ++t) dot_rows<T, 1>(w, w_stride, n_rows, x + t, y + t, n);
}

template <class T>
void add_weighted_rows(const T* p, const T* rows, size_t stride, size_t n_rows, T* acc, size_t n) {
  using L = Lanes<T>;
  size_t i = 0;
  for (; i + 4 * L::kN <= n; i += 4 * L::kN) {
    typename L::Vec a[4];
    for (int j = 0; j < 4; ++j) a[j] = L::load(acc + i + size_t(j) * L::kN);
    for (size_t r = 0; r < n_rows; ++r)
      for (int j = 0; j < 4; ++j) a[j] += p[r] * L::load(rows + r * stride + i + size_t(j) * L::kN);
    for (int j = 0; j < 4; ++j) L::store(acc + i + size_t(j) * L::kN, a[j]);
  }
  for (; i < n; ++i) {
    T a = acc[i];
    for (size_t r = 0; r < n_rows; ++r) a += p[r] * rows[r * stride + i];
    acc[i] = a;
  }
}

}  // namespace

extern const VectorKernels<float> kF32;
extern const VectorKernels<double> kF64;
const VectorKernels<float> kF32 = {dot_tile<float>, add_weighted_rows<float>};
const VectorKernels<double> kF64 = {dot_tile<double>, add_weighted_rows<double>};

}  // namespace sj::SJ_ISA
