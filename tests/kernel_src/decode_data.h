// Inputs, references and comparisons of the decode stages' tests: vectors quantised to int8 as the stages hold them
// (kernel_src/device/weight_dot.cuh), read back and compared.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "jit/compiler.h"
#include "jit/cubin.h"
#include "jit/nvrtc.h"
#include "kernel_src/args/router_scores.h"
#include "kernel_src/decode_stages_spec.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test {

inline std::vector<DType> quantised_types() {
  std::vector<DType> types = all_weight_types();
  std::erase_if(types, [](DType t) { return !is_quantised(t); });
  return types;
}

/// Calls `check` with tunings of `spec`'s kernel: each tunable at its lowest and its highest choice, the others as they are.
template <class Check>
void with_extreme_tunings(const KernelSpec& spec, Check&& check) {
  ASSERT_FALSE(spec.tunables.empty());
  for (const Tunable& tunable : spec.tunables)
    for (const int64_t choice : {tunable.choices.front(), tunable.choices.back()})
      if (choice != tune_values(spec).at(tunable.name)) check(Tuning{.chosen = {{spec.tune_key, {{tunable.name, choice}}}}, .is_strict = true});
}

/// Router scores as the stages hand them on: integers in units of 2^-32 (kernel_src/args/router_scores.h), and back.
inline std::vector<int64_t> score_units(const std::vector<float>& scores) {
  std::vector<int64_t> units(n_score_slots(uint32_t(scores.size())), int64_t{1} << 62);   // what is no expert's must not count
  for (std::size_t e = 0; e < scores.size(); ++e) units[score_index(uint32_t(e))] = int64_t(std::llround(double(scores[e]) * 4294967296.0));
  return units;
}
inline std::vector<float> score_values(const std::vector<int64_t>& units, uint32_t n_experts) {
  std::vector<float> scores;
  for (uint32_t e = 0; e < n_experts; ++e) scores.push_back(float(double(units[score_index(e)]) / 4294967296.0));
  return scores;
}

/// A QuantVec's bytes, and the values they stand for.
struct QuantisedVec {
  std::vector<uint8_t> bytes;
  ref::Vec values;
};

/// Groups of 16: d = max|x| / 127 and round to nearest even, in f32 as the device does it.
inline QuantisedVec quantise(const std::vector<float>& x) {
  const std::size_t n_chunks = x.size() / 32;
  QuantisedVec q{.bytes = std::vector<uint8_t>(48 * n_chunks), .values = ref::Vec(x.size())};
  for (std::size_t g = 0; g < x.size() / 16; ++g) {
    float largest = 0;
    for (std::size_t i = 16 * g; i < 16 * g + 16; ++i) largest = std::max(largest, std::fabs(x[i]));
    const float d = largest * (1.0f / 127);
    int sum = 0;
    for (std::size_t i = 0; i < 16; ++i) {
      const int a = int(std::nearbyint(largest > 0 ? x[16 * g + i] * (127.0f / largest) : 0.0f));
      q.bytes[16 * ((g % 2) * n_chunks + g / 2) + i] = uint8_t(int8_t(a));
      q.values[16 * g + i] = double(d) * a;
      sum += a;
    }
    const float meta[2] = {d, d * float(sum)};
    std::memcpy(&q.bytes[32 * n_chunks + 16 * (g / 2) + 8 * (g % 2)], meta, 8);
  }
  return q;
}

/// A NormedVec: the stream `x` times the norm's weights, quantised, and x's sums of squares.
struct NormedInput {
  std::vector<uint8_t> bytes;
  ref::Vec values;       ///< x * norm / rms, with x * norm as quantised
};
inline NormedInput normed_input(const std::vector<float>& x, const std::vector<float>& norm, double eps) {
  std::vector<float> scaled(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) scaled[i] = x[i] * norm[i];
  QuantisedVec q = quantise(scaled);
  NormedInput in{.bytes = std::move(q.bytes), .values = std::move(q.values)};
  double squares = 0;
  for (std::size_t g = 0; g < x.size() / 16; ++g) {
    float sum = 0;
    for (std::size_t i = 16 * g; i < 16 * g + 16; ++i) sum += x[i] * x[i];
    squares += double(sum);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&sum);
    in.bytes.insert(in.bytes.end(), bytes, bytes + 4);
  }
  in.bytes.resize(normed_vec_bytes(uint32_t(x.size())));
  const double factor = 1 / std::sqrt(squares / double(x.size()) + eps);
  for (double& v : in.values) v *= factor;
  return in;
}

/// `bytes` hold a QuantVec of `want`, whose values the device knows to within `bound`: every group's scale is its largest
/// value / 127, every value is the nearest multiple, and the group's scaled sum is its own.
inline ::testing::AssertionResult is_quantised_from(const std::vector<uint8_t>& bytes, const ref::Vec& want, const ref::Vec& bound) {
  const std::size_t n_chunks = want.size() / 32;
  for (std::size_t g = 0; g < want.size() / 16; ++g) {
    float meta[2];
    std::memcpy(meta, &bytes[32 * n_chunks + 16 * (g / 2) + 8 * (g % 2)], 8);
    double largest = 0, largest_bound = 0;
    for (std::size_t i = 16 * g; i < 16 * g + 16; ++i)
      largest = std::max(largest, std::fabs(want[i])), largest_bound = std::max(largest_bound, bound[i]);
    const double d = double(meta[0]);
    if (!(std::fabs(127 * d - largest) <= largest_bound + 4 * kRoundF32 * largest))
      return ::testing::AssertionFailure() << fmt::format("group {}: scale {} instead of {} / 127, bound {:.3g}", g, d, largest, largest_bound);
    int sum = 0;
    for (std::size_t i = 0; i < 16; ++i) {
      const int a = int8_t(bytes[16 * ((g % 2) * n_chunks + g / 2) + i]);
      const std::size_t at = 16 * g + i;
      // Half a step, and what the scale's own roundings move: 127 steps times 4 roundings.
      if (!(std::fabs(d * a - want[at]) <= d * 0.5 + 4 * kRoundF32 * largest + 2 * largest_bound))
        return ::testing::AssertionFailure() << fmt::format("[{}]: {} x {} = {} instead of {}, bound {:.3g}", at, a, d, a * d, want[at], bound[at]);
      sum += a;
    }
    if (meta[1] != meta[0] * float(sum))
      return ::testing::AssertionFailure() << fmt::format("group {}: scaled sum {} instead of {} x {}", g, meta[1], meta[0], sum);
  }
  return ::testing::AssertionSuccess();
}

/// A finished residual stream: y as it must be, next its NormedVec under `norm`.
inline ::testing::AssertionResult is_finished(const std::vector<float>& y, const std::vector<uint8_t>& next, const ref::Vec& want,
                                              const ref::Vec& bound, const std::vector<float>& norm) {
  if (const auto close = is_close(y, want, bound); !close) return close;
  ref::Vec scaled(y.size()), scaled_bound(y.size());   // from the y that the device itself computed
  for (std::size_t i = 0; i < y.size(); ++i) scaled[i] = double(y[i]) * double(norm[i]), scaled_bound[i] = kRoundF32 * std::fabs(scaled[i]);
  if (const auto quantised = is_quantised_from(next, scaled, scaled_bound); !quantised) return quantised;
  std::vector<float> squares(y.size() / 16);
  std::memcpy(squares.data(), next.data() + 48 * (y.size() / 32), 4 * squares.size());
  ref::Vec want_squares(squares.size());
  for (std::size_t i = 0; i < y.size(); ++i) want_squares[i / 16] += double(y[i]) * double(y[i]);
  return is_close(squares, want_squares, 8 * kRoundF32, 0);
}

/// Bound of |device - exact| of W x for quantised x. The integer sums are exact; what rounds are a chunk's scales and terms (6)
/// and the additions: a lane's chain of chunks, 5 shuffles and up to 16 warps. `factor_roundings`: of what y is multiplied with.
inline ref::Vec decode_dot_bound(const TestMatrix& m, const ref::Vec& x, double factor_roundings = 0) {
  return dot_bound(m, x, 6 + std::ceil(double(m.n_cols) / 256) + 5 + 16 + factor_roundings);
}
/// Roundings in 1 / rms: the sums of squares (16 and a lane's part of the others), rsqrt's 2 ulp, products.
inline double rms_roundings(std::size_t n_cols) { return 16 + double(n_cols) / 512 + 5 + 6; }

/// Rows [first, first + n) of `m`.
inline TestMatrix rows_of(const TestMatrix& m, std::size_t first, std::size_t n) {
  TestMatrix part{.dtype = m.dtype, .n_rows = n, .n_cols = m.n_cols, .records = {}, .values = {}, .largest = m.largest};
  part.values.assign(m.values.begin() + std::ptrdiff_t(first * m.n_cols), m.values.begin() + std::ptrdiff_t((first + n) * m.n_cols));
  return part;
}

inline const uint8_t* upload_matrix(KernelRunner& gpu, const TestMatrix& m) {
  return reinterpret_cast<const uint8_t*>(gpu.upload(m.records));
}

/// The cards whose launch shapes the specs choose; each is compiled for its own target.
inline std::vector<DeviceInfo> profiled_devices() {
  return {require_device_profile("h200"), require_device_profile("rtx5090"), require_device_profile("gb10")};
}

/// Compiles the spec that `make` chooses for each card: no spills, no local memory, within the card's shared memory and an SM's
/// registers.
template <class Make>
::testing::AssertionResult fits_devices(const std::vector<DeviceInfo>& devices, const Make& make) {
  for (const DeviceInfo& device : devices) {
    const KernelSpec spec = make(device);
    const std::string label = kernel_label(spec) + "@" + device.target();
    const auto refuse = [&](const std::string& why) { return ::testing::AssertionFailure() << label << ": " << why; };
    KernelResources r;
    try {
      r = compile(require_nvrtc(), {.spec = spec, .sources = SourceSet::embedded(), .target = device.target()}).resources;
    } catch (const Error& error) {
      return refuse(error.what());
    }
    if (r.spill_bytes > 0) return refuse(fmt::format("spills {} bytes a thread", r.spill_bytes));
    if (r.stack_bytes > 0) return refuse(fmt::format("keeps {} bytes a thread in local memory", r.stack_bytes));
    const uint32_t smem = r.static_smem_bytes + spec.launch.dynamic_smem_bytes;
    if (smem > device.smem_per_block_bytes) return refuse(fmt::format("{} bytes of shared memory of {}", smem, device.smem_per_block_bytes));
    if (r.static_smem_bytes > 48 * 1024) return refuse(fmt::format("{} bytes of static shared memory", r.static_smem_bytes));
    if (uint64_t{r.registers} * spec.launch.block.x > 65536) return refuse(fmt::format("{} registers a thread", r.registers));
  }
  return ::testing::AssertionSuccess();
}

template <class Make>
::testing::AssertionResult fits_profiled_devices(const Make& make) {
  return fits_devices(profiled_devices(), make);
}

/// The same spec for a card of `n_sms` SMs: fewer SMs make taller tiles and longer splits.
inline DeviceInfo with_sms(DeviceInfo device, uint32_t n_sms) {
  device.n_sms = n_sms;
  return device;
}

}  // namespace sj::test
