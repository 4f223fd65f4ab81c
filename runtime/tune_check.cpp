#include "runtime/tune_check.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>
#include <thread>

#include <fmt/format.h>

#include "jit/launch.h"
#include "kernel_src/args/step_state.h"
#include "kernel_src/kv_append_spec.h"
#include "models/dequant.h"
#include "runtime/kv_cache.h"

namespace sj {
namespace {

// A candidate gets the same inputs as the default, so the two differ by the order of float32 sums only, and by what becomes of that
// when it is rounded to fewer bits.
//
// Float32 outputs: a sum of n products of random sign in another order is off by about sqrt(n) 2^-24 of the sum's own size; n <= 2^17
// gives 2e-5 on average, and the worst of 10^5 values, 4.5 deviations, 1e-4. Twice and three times that.
constexpr double kFloatMean = 5e-5, kFloatMost = 3e-4;
// What becomes int8 may come from an attention, whose weights are rounded to f16 before they are summed: each is off by
// 2^-12 / sqrt(3) = 1.4e-4 of itself, and another split knows another maximum and rounds others, so two differ by 2e-4 before they
// are rounded to int8. So 5e-4 of the values' size on average, and no single value off by more than 3e-3 of it.
constexpr double kInputMean = 5e-4, kInputMost = 3e-3;
// An int8 group of 16 has the scale of its largest value, a float32. Its other values may fall to the other side of a rounding: one
// step of the group, largest / 127. A value flips with the probability of twice its error in steps of about 1.9 / 127 of the
// values' size (groups of 16 normal values): 2 * 5e-4 * 127 / 1.9 = 7 %, each by 1.5 %: 4e-3 of their size on average.
constexpr double kQuantMean = 5e-3, kQuantMostSteps = 1.01;
// The cache: halves, rounded to 2^-11 of each value; one flip is twice that.
constexpr double kHalfMost = 1.0 / 1024, kHalfMean = 1e-3;

constexpr auto kHangTime = std::chrono::seconds(20);

float float_at(std::span<const std::byte> bytes, uint64_t idx) {
  float value = 0;
  std::memcpy(&value, bytes.data() + 4 * idx, 4);
  return value;
}

double score_at(std::span<const std::byte> bytes, uint64_t idx) {
  int64_t units = 0;
  std::memcpy(&units, bytes.data() + 8 * idx, 8);
  return static_cast<double>(units) / 4294967296.0;
}

float half_at(std::span<const std::byte> bytes, uint64_t idx) {
  uint16_t bits = 0;
  std::memcpy(&bits, bytes.data() + 2 * idx, 2);
  return half_to_float(bits);
}

/// Numbers with the allowance that each has of its own.
struct Numbers {
  std::vector<double> expected, found, own_bound;
  void add(double e, double f, double bound = 0) {
    expected.push_back(e);
    found.push_back(f);
    own_bound.push_back(bound);
  }
};

std::string compare_numbers(const Numbers& n, double mean_bound, double most_bound) {
  double square = 0, square_difference = 0;
  for (size_t i = 0; i < n.expected.size(); ++i) {
    if (!std::isfinite(n.found[i]) && std::isfinite(n.expected[i])) return fmt::format("value {} is {}, expected {:.6g}", i, n.found[i], n.expected[i]);
    if (!std::isfinite(n.expected[i])) return fmt::format("value {} of the default is {}: nothing to compare with", i, n.expected[i]);
    square += n.expected[i] * n.expected[i];
    square_difference += (n.found[i] - n.expected[i]) * (n.found[i] - n.expected[i]);
  }
  const double count = static_cast<double>(std::max<size_t>(n.expected.size(), 1));
  const double rms = std::sqrt(square / count), rms_difference = std::sqrt(square_difference / count);
  for (size_t i = 0; i < n.expected.size(); ++i)
    if (std::abs(n.found[i] - n.expected[i]) > most_bound * rms + n.own_bound[i])
      return fmt::format("value {} is {:.6g}, expected {:.6g} within {:.2g}", i, n.found[i], n.expected[i], most_bound * rms + n.own_bound[i]);
  if (rms_difference > mean_bound * rms)
    return fmt::format("off by {:.2g} of the values' size on average, at most {:.2g} expected", rms_difference / rms, mean_bound);
  return {};
}

std::string compare_quants(std::span<const std::byte> expected, std::span<const std::byte> found, uint64_t n_chunks) {
  Numbers values, largest;
  const uint64_t meta = 32 * n_chunks;   // bytes before the scales: two groups of 16 a chunk
  for (uint64_t chunk = 0; chunk < n_chunks; ++chunk)
    for (uint64_t half = 0; half < 2; ++half) {
      const uint64_t place = meta / 4 + 4 * chunk + 2 * half, first = 16 * (half * n_chunks + chunk);
      const double d = float_at(expected, place), e = float_at(found, place), sum = float_at(found, place + 1);
      if (!std::isfinite(e) || !std::isfinite(sum)) return fmt::format("a scale or sum of chunk {} is not finite", chunk);
      largest.add(127 * d, 127 * e);
      int own_sum = 0;
      for (uint64_t i = 0; i < 16; ++i) {
        const int a = static_cast<int8_t>(expected[first + i]), b = static_cast<int8_t>(found[first + i]);
        own_sum += b;
        values.add(d * a, e * b, kQuantMostSteps * std::abs(d));
      }
      // The sum is what consumers multiply offsets with: it must be that of the bytes.
      if (std::abs(sum - e * own_sum) > 1e-5 * std::abs(e) * 16 * 127)
        return fmt::format("chunk {} says that its values add up to {:.6g}, they make {:.6g}", chunk, sum, e * own_sum);
    }
  if (const std::string difference = compare_numbers(largest, kInputMean, kInputMost); !difference.empty()) return "largest of groups: " + difference;
  return compare_numbers(values, kQuantMean, kInputMost);
}

}  // namespace

std::string compare_values(ValueForm form, std::span<const std::byte> expected, std::span<const std::byte> found) {
  switch (form) {
    case ValueForm::kOpaque: return {};
    case ValueForm::kI32: return std::ranges::equal(expected, found) ? "" : "integers differ";
    case ValueForm::kF32: {
      Numbers values;
      for (uint64_t i = 0; i < expected.size() / 4; ++i) values.add(float_at(expected, i), float_at(found, i));
      return compare_numbers(values, kFloatMean, kFloatMost);
    }
    case ValueForm::kScores: {
      Numbers values;
      for (uint64_t i = 0; i < expected.size() / 8; ++i) values.add(score_at(expected, i), score_at(found, i));
      return compare_numbers(values, kFloatMean, kFloatMost);
    }
    case ValueForm::kQuantVec: return compare_quants(expected, found, expected.size() / 48);
    case ValueForm::kNormedVec: {
      const uint64_t n_chunks = expected.size() / 56;   // 48 bytes and two floats a chunk, rounded up
      if (std::string difference = compare_quants(expected, found, n_chunks); !difference.empty()) return difference;
      Numbers sums;
      for (uint64_t i = 0; i < 2 * n_chunks; ++i) sums.add(float_at(expected, 12 * n_chunks + i), float_at(found, 12 * n_chunks + i));
      const std::string difference = compare_numbers(sums, kFloatMean, kFloatMost);
      return difference.empty() ? "" : "sums of squares: " + difference;
    }
  }
  return {};
}

std::string compare_kv(bool is_f32, std::span<const std::byte> expected, std::span<const std::byte> found) {
  Numbers values;
  for (uint64_t i = 0; i < expected.size() / (is_f32 ? 4 : 2); ++i) {
    const double e = is_f32 ? float_at(expected, i) : half_at(expected, i), f = is_f32 ? float_at(found, i) : half_at(found, i);
    values.add(e, f, is_f32 ? 0 : 2 * kHalfMost * std::abs(e));
  }
  return compare_numbers(values, kHalfMean, kInputMost);
}

std::string compare_sampled(std::span<const std::byte> expected, std::span<const std::byte> found, std::span<const std::byte> logits) {
  StepState e, f;
  std::memcpy(&e, expected.data(), sizeof e);
  std::memcpy(&f, found.data(), sizeof f);
  if (f.position != e.position || f.n_tokens != e.n_tokens || f.step_idx != e.step_idx)
    return fmt::format("step {} at position {}, expected {} at {}", f.step_idx, f.position, e.step_idx, e.position);
  if (f.token == e.token) return {};
  const uint64_t n = logits.size() / 4;
  if (f.token < 0 || static_cast<uint64_t>(f.token) >= n) return fmt::format("token {} of {}", f.token, n);
  double square = 0;
  for (uint64_t i = 0; i < n; ++i) square += double{float_at(logits, i)} * float_at(logits, i);
  const double best = float_at(logits, static_cast<uint64_t>(e.token)), other = float_at(logits, static_cast<uint64_t>(f.token));
  if (best - other <= kFloatMost * std::sqrt(square / static_cast<double>(n))) return {};
  return fmt::format("token {} with logit {:.6g}, expected {} with {:.6g}", f.token, other, e.token, best);
}

OutputCheck::OutputCheck(TuneBench& bench, size_t context, const TuneVariant& base, const std::string& key)
    : bench_(bench), context_(context), step_(bench.space().widest()[context]) {
  std::vector<size_t> of_key;
  for (size_t i = 0; i < base.step.launches.size(); ++i)
    if (base.step.launches[i].spec.tune_key == key) of_key.push_back(i);
  const std::set<size_t> chosen = {of_key.front(), of_key[of_key.size() / 2], of_key.back()};
  add_region("arena", bench.apart_ptr(context), bench.apart_bytes(context));
  std::set<std::string> kv;
  for (const size_t i : chosen)
    for (const ArgPatch& patch : step_.launches[i].patches)
      if (patch.ref.kind == BufferKind::kState && step_.states[patch.ref.id].key.starts_with("kv.")) kv.insert(step_.states[patch.ref.id].key);
  for (const StateBuffer& state : step_.states) {
    if (state.home != StateHome::kDevice) continue;
    const CUdeviceptr ptr = bench.memory().state_ptr(state.key);
    if (!state.key.starts_with("kv.")) {
      add_region(state.key, ptr, state.n_bytes);
    } else if (kv.contains(state.key)) {   // the page that the step writes to
      const AttentionDesc& attention = bench.space().model().layers.at(std::stoul(state.key.substr(5))).attention;
      const uint64_t page_bytes = kv_pool_bytes(attention, 1, bench.space().kv_type());
      const uint64_t page = (bench.space().contexts()[context].check_tokens() + 1) / kKvPageTokens;
      add_region(state.key, ptr + page * page_bytes, page_bytes);
    }
  }
  bench.fill_apart(context, base);
  // One position further than the step that made the inputs: a candidate that writes no keys is seen.
  bench.set_depth(context, 1);
  before_ = DeviceBuffer(bench.driver(), n_bytes_, "state before a candidate");
  for (const Region& region : regions_) copy_on_device(bench.executor().stream(), before_.ptr() + region.at, region.ptr, region.n_bytes);
  bench.executor().synchronize("state before a candidate");

  const std::vector<Lifetime> lifetimes = value_lifetimes(step_);
  for (const size_t i : chosen) {
    Launch& launch = launches_.emplace_back(Launch{.idx = i});
    for (const ArgPatch& patch : step_.launches[i].patches) {
      if (patch.ref.kind == BufferKind::kValue && lifetimes[patch.ref.id].first == i) launch.outputs.push_back(patch.ref.id);
      if (patch.ref.kind == BufferKind::kState && step_.states[patch.ref.id].key == "logits") launch.has_logits = true;
    }
    launch.expected = run(launch, base.apart[i]);
    if (const std::string difference = compare(launch, run(launch, base.apart[i])); !difference.empty())
      throw Error(ErrorKind::kInternal, fmt::format("{}: the default's own outputs can't be compared: {}", key, difference));
  }
}

void OutputCheck::add_region(std::string name, CUdeviceptr ptr, uint64_t n_bytes) {
  regions_.push_back({std::move(name), ptr, n_bytes, n_bytes_});
  n_bytes_ += (n_bytes + kBufferAlignBytes - 1) / kBufferAlignBytes * kBufferAlignBytes;
}

std::vector<std::byte> OutputCheck::run(const Launch& launch, const PlannedLaunch& planned) const {
  const Stream& stream = bench_.executor().stream();
  std::vector<std::byte> after;
  bench_.executor().guarded(fmt::format("checking {}: {}", planned.label, planned.kernel->label()), [&] {
    for (const Region& region : regions_) copy_on_device(stream, region.ptr, before_.ptr() + region.at, region.n_bytes);
    const ArenaPlan& apart = bench_.apart(context_);
    for (const uint32_t id : launch.outputs) fill_bytes(stream, bench_.memory().arena_ptr() + apart.offsets[id], 0xFF, step_.values[id].n_bytes);
    if (launch.has_logits)
      for (const Region& region : regions_)
        if (region.name == "logits") fill_bytes(stream, region.ptr, 0xFF, region.n_bytes);
    sj::launch(*planned.kernel, planned.shape, planned.args, stream, {.pdl = false});
    // A kernel that never ends would be waited for without end, and nobody would learn which one it is.
    const auto deadline = std::chrono::steady_clock::now() + kHangTime;
    while (!stream.is_done()) {
      if (std::chrono::steady_clock::now() > deadline)
        throw Error(ErrorKind::kCuda, fmt::format("the kernel still runs after {} s", kHangTime.count()));
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    after = read_regions();
  });
  return after;
}

std::vector<std::byte> OutputCheck::read_regions() const {
  std::vector<std::byte> bytes(n_bytes_);
  for (const Region& region : regions_) copy_to_host(bench_.driver(), bytes.data() + region.at, region.ptr, region.n_bytes);
  return bytes;
}

std::string OutputCheck::find_difference_in_step(const TuneVariant& base, const TuneVariant& candidate) const {
  const auto outputs_of = [&](const TuneVariant& variant) {
    restore();
    bench_.run_apart(context_, variant);
    return read_regions();
  };
  const std::vector<std::byte> expected = outputs_of(base), found = outputs_of(candidate);
  restore();
  const uint64_t apart_first = bench_.apart_ptr(context_) - bench_.memory().arena_ptr();
  for (const uint32_t id : launches_.front().outputs) {
    const LoweredValue& value = step_.values[id];
    const uint64_t at = bench_.apart(context_).offsets[id] - apart_first;
    const auto part = [&](const std::vector<std::byte>& all) { return std::span(all).subspan(at, value.n_bytes); };
    const std::string difference = compare_values(value.form, part(expected), part(found));
    if (!difference.empty()) return fmt::format("in the whole step, {}: {}", value.name, difference);
  }
  return {};
}

std::string OutputCheck::compare(const Launch& launch, std::vector<std::byte> found) const {
  std::vector<std::byte> expected = launch.expected;
  const LoweredLaunch& lowered = step_.launches[launch.idx];
  // Compares one buffer as what it is; what is equal by that is made equal, and the rest must be equal to the byte.
  const auto settle = [&](uint64_t at, uint64_t n_bytes, const auto& compare_as) {
    const std::span<std::byte> e(expected.data() + at, n_bytes), f(found.data() + at, n_bytes);
    std::string difference = compare_as(e, f);
    std::ranges::copy(e, f.begin());
    return difference;
  };
  const uint64_t apart_first = bench_.apart_ptr(context_) - bench_.memory().arena_ptr();
  for (const ArgPatch& patch : lowered.patches) {
    if (patch.ref.kind != BufferKind::kValue) continue;
    const LoweredValue& value = step_.values[patch.ref.id];
    const std::string difference = settle(bench_.apart(context_).offsets[patch.ref.id] - apart_first, value.n_bytes, [&](auto e, auto f) {
      return compare_values(value.form, e, f);
    });
    if (!difference.empty()) return fmt::format("{} of {}: {}", value.name, lowered.label, difference);
  }
  const auto logits = std::ranges::find(regions_, "logits", &Region::name);
  for (size_t i = 1; i < regions_.size(); ++i) {
    const Region& region = regions_[i];
    std::string difference;
    if (region.name == "step" && launch.has_logits)   // it may have sampled
      difference = settle(region.at, region.n_bytes, [&](auto e, auto f) {
        return compare_sampled(e, f, std::span(launch.expected).subspan(logits->at, logits->n_bytes));
      });
    if (region.name == "logits" && launch.has_logits)
      difference = settle(region.at, region.n_bytes, [](auto e, auto f) { return compare_values(ValueForm::kF32, e, f); });
    else if (region.name.starts_with("kv."))
      difference = settle(region.at, region.n_bytes, [&](auto e, auto f) { return compare_kv(bench_.space().kv_type() == KvType::kF32, e, f); });
    if (!difference.empty()) return fmt::format("{} of {}: {}", region.name, lowered.label, difference);
  }
  const auto [e, f] = std::ranges::mismatch(expected, found);
  if (e == expected.end()) return {};
  const uint64_t at = static_cast<uint64_t>(e - expected.begin());
  const Region* region = &regions_.front();
  for (const Region& r : regions_)
    if (r.at <= at) region = &r;
  return fmt::format("{} writes outside of its outputs: byte {} of {}", lowered.label, at - region->at, region->name);
}

void OutputCheck::restore() const {
  bench_.executor().guarded("after a check", [&] {
    for (const Region& region : regions_) copy_on_device(bench_.executor().stream(), region.ptr, before_.ptr() + region.at, region.n_bytes);
    bench_.executor().stream().synchronize("after a check");
  });
  bench_.set_depth(context_);
}

std::string OutputCheck::find_difference(const TuneVariant& candidate) const {
  for (const Launch& launch : launches_) {
    std::string difference = compare(launch, run(launch, candidate.apart[launch.idx]));
    if (!difference.empty()) return difference;
  }
  return {};
}

}  // namespace sj
