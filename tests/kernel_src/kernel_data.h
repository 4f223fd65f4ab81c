// Inputs and comparisons of the kernel tests: random activations, random weight matrices as row records with the values
// they stand for, and closeness under a bound that the caller derives.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "jit/base/dtype.h"
#include "jit/base/error.h"
#include "jit/kernel_spec.h"
#include "kernel_src/weight_layout.h"
#include "models/dequant.h"
#include "tests/reference/reference_ops.h"

namespace sj::test {

inline constexpr double kRoundF32 = 0x1p-24;   ///< relative error of one f32 rounding

inline const std::vector<DType>& all_weight_types() {
  static const std::vector<DType> types = {
      DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0, DType::kQ4_1,   DType::kQ5_0,   DType::kQ5_1,  DType::kQ8_0, DType::kQ2_K,
      DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4, DType::kNVFP4};
  return types;
}

/// A few types stand for all where a test would compile each of them once more.
inline bool is_sample_type(DType type) { return type == DType::kF16 || type == DType::kQ4_K || type == DType::kQ6_K || type == DType::kMXFP4; }

/// What a kernel's text is compiled for; samples alone also for sm_121f, which differs from sm_120f in nothing that these use.
inline std::vector<std::string> targets_of(bool is_sample) {
  std::vector<std::string> targets = {"sm_90", "sm_120f"};
  if (is_sample) targets.emplace_back("sm_121f");
  return targets;
}
inline std::vector<std::string> targets_of(DType type) { return targets_of(is_sample_type(type)); }

/// Place of element `dim` of a token's row in its page of the KV cache: device/kv_layout.cuh.
inline std::size_t kv_elem_at(uint32_t head_dim, uint32_t token, uint32_t dim) {
  const uint32_t n_exchanged = head_dim % 64 == 0 ? 8 : head_dim % 32 == 0 ? 4 : head_dim % 16 == 0 ? 2 : 1;
  return (dim / 8 ^ token % n_exchanged) * 8 + dim % 8;
}

/// Place of element `dim` of a token's row in a q8_0 page: device/kv_q8.cuh.
inline std::size_t kv_q8_elem_at(uint32_t head_dim, uint32_t token, uint32_t dim) {
  const uint32_t row = token % 8, exchange = head_dim % 128 == 0 ? (row / 2 ^ row % 2 * 2) : head_dim % 64 == 0 ? row / 2 % 2 : 0;
  return (dim / 32 ^ exchange) * 32 + dim % 32;
}

inline double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return exponent == 31 ? std::nan("") : bits & 0x8000 ? -magnitude : magnitude;
}

/// A pool of q8_0 pages on the host, [n_pages][n_head_kv] pages of one head; scales that nobody wrote are NaN.
struct Q8Pool {
  uint32_t n_head_kv = 0, head_dim = 0, page_tokens = 0;
  std::vector<uint8_t> bytes;

  Q8Pool(uint32_t n_pages, uint32_t n_heads, uint32_t dim, uint32_t tokens) : n_head_kv(n_heads), head_dim(dim), page_tokens(tokens) {
    bytes.assign(std::size_t{n_pages} * n_heads * page_bytes(), 0x7E);
  }
  std::size_t page_bytes() const { return std::size_t{page_tokens} * (head_dim + head_dim / 16); }
  std::size_t quant_at(std::size_t page, uint32_t head, uint32_t token, uint32_t dim) const {
    return (page * n_head_kv + head) * page_bytes() + std::size_t{token % page_tokens} * head_dim + kv_q8_elem_at(head_dim, token, dim);
  }
  std::size_t scale_at(std::size_t page, uint32_t head, uint32_t token, uint32_t dim) const {
    return (page * n_head_kv + head) * page_bytes() + std::size_t{page_tokens} * head_dim + std::size_t{token % page_tokens} * (head_dim / 16) + dim / 32 * 2;
  }
  double scale(std::size_t page, uint32_t head, uint32_t token, uint32_t dim) const {
    uint16_t bits = 0;
    std::memcpy(&bits, &bytes[scale_at(page, head, token, dim)], 2);
    return half_value(bits);
  }
  /// The half that kernels take for it.
  double value(std::size_t page, uint32_t head, uint32_t token, uint32_t dim) const {
    return ref::round_to_half(scale(page, head, token, dim) * static_cast<int8_t>(bytes[quant_at(page, head, token, dim)]));
  }
  /// Stores a row by the rule of q8_0, in float64 but for the scale's rounding.
  void store(std::size_t page, uint32_t head, uint32_t token, const float* x) {
    for (uint32_t block = 0; block < head_dim; block += 32) {
      double largest = 0;
      for (uint32_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(double(x[block + i])));
      const uint16_t bits = float_to_half(float(largest / 127));
      std::memcpy(&bytes[scale_at(page, head, token, block)], &bits, 2);
      for (uint32_t i = 0; i < 32; ++i)
        bytes[quant_at(page, head, token, block + i)] = uint8_t(int8_t(std::nearbyint(largest == 0 ? 0 : x[block + i] * 127 / largest)));
    }
  }
};

/// A row as stored must be `want` by the rule of q8_0, `want` being known to 2^-18 |largest of its block|. Marks its bytes in
/// `expected` as right, for a comparison of all the rest, and appends its values to `row`.
inline ::testing::AssertionResult take_q8_row(const Q8Pool& got, std::size_t page, uint32_t head, uint32_t token, const double* want, Q8Pool& expected,
                                              ref::Vec& row) {
  for (uint32_t dim = 0; dim < got.head_dim; ++dim) {
    double largest = 0;
    for (uint32_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(want[dim / 32 * 32 + i]));
    const double d = got.scale(page, head, token, dim);
    if (!(std::fabs(d - largest / 127) <= (0x1p-11 + 0x1p-18) * largest / 127 + 0x1p-25))
      return ::testing::AssertionFailure() << fmt::format("head {}, token {}, dim {}: scale {} for a largest of {}", head, token, dim, d, largest);
    const int quant = static_cast<int8_t>(got.bytes[got.quant_at(page, head, token, dim)]);
    // Half a step, and what is unknown of the value; a step is largest / 127 to 2^-18.
    if (!(std::fabs(quant * largest / 127 - want[dim]) <= (0.5 / 127 + 0x1p-17) * largest))
      return ::testing::AssertionFailure() << fmt::format("head {}, token {}, dim {}: quant {} for {} of {}", head, token, dim, quant, want[dim], largest);
    for (const std::size_t at : {got.quant_at(page, head, token, dim), got.scale_at(page, head, token, dim), got.scale_at(page, head, token, dim) + 1})
      expected.bytes[at] = got.bytes[at];
    row.push_back(got.value(page, head, token, dim));
  }
  return ::testing::AssertionSuccess();
}

/// Normally distributed floats.
inline std::vector<float> random_floats(std::size_t n, uint64_t seed, double deviation = 1.0) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(normal(engine));
  return x;
}

/// A weight matrix in both forms.
struct TestMatrix {
  DType dtype = DType::kF32;
  std::size_t n_rows = 0, n_cols = 0;
  std::vector<std::byte> records;   ///< what the kernel reads
  ref::Vec values;                  ///< [n_rows, n_cols]
  double largest = 0;               ///< largest |value|
};

/// Makes the scales of random block bytes ordinary numbers, so that values have the size of real weights.
inline void tame_scales(DType dtype, std::span<uint8_t> block, std::mt19937_64& engine) {
  const auto put_half = [&](std::size_t at, double low, double high) {
    const uint16_t bits = float_to_half(static_cast<float>(std::uniform_real_distribution<double>(low, high)(engine)));
    std::memcpy(block.data() + at, &bits, 2);
  };
  switch (dtype) {
    case DType::kQ4_0: case DType::kIQ4_NL: case DType::kQ5_0: case DType::kQ8_0: put_half(0, 0.001, 0.01); break;
    case DType::kQ4_1: case DType::kQ5_1: put_half(0, 0.001, 0.01); put_half(2, -0.1, 0.0); break;
    case DType::kQ2_K: put_half(80, 0.001, 0.01); put_half(82, 0.001, 0.01); break;
    case DType::kQ3_K: put_half(108, 0.0001, 0.001); break;
    case DType::kQ4_K: case DType::kQ5_K: put_half(0, 0.0001, 0.001); put_half(2, 0.0001, 0.001); break;
    case DType::kQ6_K: put_half(208, 0.00001, 0.0001); break;
    case DType::kIQ4_XS: put_half(0, 0.00001, 0.0001); break;
    case DType::kMXFP4: block[0] = static_cast<uint8_t>(118 + engine() % 6); break;
    case DType::kNVFP4: for (int i = 0; i < 4; ++i) block[std::size_t(i)] = static_cast<uint8_t>(engine() % 64); break;
    default: break;
  }
}

inline TestMatrix random_matrix(DType dtype, std::size_t n_rows, std::size_t n_cols, uint64_t seed) {
  const DTypeInfo& info = dtype_info(dtype);
  std::mt19937_64 engine(seed * 100 + static_cast<uint64_t>(dtype));
  TestMatrix m{.dtype = dtype, .n_rows = n_rows, .n_cols = n_cols, .records = {}, .values = {}};
  const std::size_t row_bytes = n_cols / info.block_elems * info.block_bytes, record_bytes = row_record_bytes(dtype, n_cols);
  m.records.resize(n_rows * record_bytes);
  std::vector<uint8_t> row(row_bytes);
  std::vector<float> values(n_cols);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  for (std::size_t r = 0; r < n_rows; ++r) {
    for (std::size_t i = 0; i < n_cols && info.block_elems == 1; ++i) {
      const float v = normal(engine);
      const uint16_t half = dtype == DType::kF16 ? float_to_half(v) : float_to_bf16(v);
      if (dtype == DType::kF32) std::memcpy(row.data() + 4 * i, &v, 4);
      else std::memcpy(row.data() + 2 * i, &half, 2);
    }
    for (std::size_t b = 0; b < row_bytes && info.block_elems > 1; b += info.block_bytes) {
      const std::span<uint8_t> block(row.data() + b, info.block_bytes);
      for (uint8_t& byte : block) byte = static_cast<uint8_t>(engine());
      tame_scales(dtype, block, engine);
    }
    dequantise(dtype, std::as_bytes(std::span(row)), values.data(), n_cols);
    m.values.insert(m.values.end(), values.begin(), values.end());
    repack_row(dtype, n_cols, std::as_bytes(std::span(row)), std::span(m.records).subspan(r * record_bytes, record_bytes));
  }
  for (const double v : m.values) m.largest = std::max(m.largest, std::fabs(v));
  return m;
}

inline ref::Vec absolute(ref::Vec x) {
  for (double& v : x) v = std::fabs(v);
  return x;
}

/// Bound of |f32 dot product - exact| for each row of `m` and vector of x, when at most `n_serial` additions lie between a
/// product and the result: n_serial roundings on sum |w x|, plus the weight's own: d * q + m in up to three roundings, each of
/// a term up to twice the largest weight.
inline ref::Vec dot_bound(const TestMatrix& m, const ref::Vec& x, double n_serial) {
  ref::Vec bound = ref::matmul(absolute(m.values), absolute(x), m.n_rows, m.n_cols);
  const std::size_t n_vectors = x.size() / m.n_cols;
  for (std::size_t t = 0; t < n_vectors; ++t) {
    double x_sum = 0;
    for (std::size_t k = 0; k < m.n_cols; ++k) x_sum += std::fabs(x[t * m.n_cols + k]);
    for (std::size_t r = 0; r < m.n_rows; ++r) {
      double& b = bound[t * m.n_rows + r];
      b = (n_serial + 4) * kRoundF32 * b + 3 * kRoundF32 * 2 * m.largest * x_sum;
    }
  }
  return bound;
}

/// |got[i] - want[i]| <= bound[i] for every i; a NaN is never close.
inline ::testing::AssertionResult is_close(const std::vector<float>& got, const ref::Vec& want, const ref::Vec& bound) {
  if (got.size() != want.size() || bound.size() != want.size())
    return ::testing::AssertionFailure() << fmt::format("sizes differ: {} values, {} expected, {} bounds", got.size(), want.size(), bound.size());
  std::size_t n_bad = 0, first = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!(std::fabs(double(got[i]) - want[i]) <= bound[i]) && n_bad++ == 0) first = i;
  if (n_bad == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format("{} of {} values off; first [{}]: {} instead of {}, off by {:.3g}, bound {:.3g}", n_bad,
                                                      got.size(), first, got[first], want[first], std::fabs(got[first] - want[first]), bound[first]);
}

/// |got[i] - want[i]| <= relative * |want[i]| + absolute.
inline ::testing::AssertionResult is_close(const std::vector<float>& got, const ref::Vec& want, double relative, double absolute_bound) {
  ref::Vec bound(want.size());
  for (std::size_t i = 0; i < want.size(); ++i) bound[i] = relative * std::fabs(want[i]) + absolute_bound;
  return is_close(got, want, bound);
}

/// The bytes that KernelRunner::alloc leaves: an element nobody wrote.
inline float unwritten() {
  const uint32_t bits = 0xCCCCCCCCu;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

/// Runs `make`, which must throw kUnsupported with `part` in its message.
template <class Make>
::testing::AssertionResult is_refused(const Make& make, const std::string& part) {
  try {
    make();
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kUnsupported) return ::testing::AssertionFailure() << "kind " << kind_name(e.kind()) << ": " << e.what();
    if (e.message().find(part) == std::string::npos)
      return ::testing::AssertionFailure() << "the message lacks \"" << part << "\": " << e.message();
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "nothing was thrown";
}

/// Value of a baked integer, -1 when there is none.
inline int64_t baked_int(const KernelSpec& spec, const std::string& name) {
  for (const Baked& b : spec.baked)
    if (b.name == name && std::holds_alternative<int64_t>(b.value)) return std::get<int64_t>(b.value);
  return -1;
}

}  // namespace sj::test
