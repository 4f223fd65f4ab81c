#include "runtime/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

/// e^x for -87 <= x <= 0, relative error below 2e-7; e^-87 for what is below. Plain arithmetic, so that a row of logits is vectorised and
/// a seed draws the same tokens whatever the C library.
float exp_not_positive(float x) {
  const float clamped = x > -87.0f ? x : -87.0f;
  const auto n_int = static_cast<int32_t>(clamped * 1.44269504f - 0.5f);   // the nearest integer, for what is not positive
  const auto n = static_cast<float>(n_int);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;   // ln 2 in two parts (Cody and Waite)
  float p = 1.98756915e-4f;                                            // minimax on |r| <= ln 2 / 2 (Cephes expf)
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((n_int + 127) << 23);
  return p * scale;
}

constexpr TokenId kLastId = std::numeric_limits<TokenId>::max();
constexpr float kSharpest = 1e30f;   // a temperature below 1e-30 still leaves 0 * scale a number

constexpr size_t kBlock = 64;   // logits that are looked at together: one comparison each, vectorised

bool is_any_above(std::span<const float> block, float threshold) {
  uint32_t n = 0;
  for (const float l : block) n += l > threshold;
  return n > 0;
}

/// Calls visit(i) for each i with row[i] > threshold(); the threshold may only rise meanwhile.
template <class Threshold, class Visit>
void for_each_above(std::span<const float> row, const Threshold& threshold, const Visit& visit) {
  for (size_t begin = 0; begin < row.size(); begin += kBlock) {
    const std::span<const float> block = row.subspan(begin, std::min(kBlock, row.size() - begin));
    if (!is_any_above(block, threshold())) continue;
    for (size_t i = 0; i < block.size(); ++i) {
      if (block[i] > threshold()) visit(begin + i);
    }
  }
}

/// Index of the largest, the lowest of equals.
size_t find_largest(std::span<const float> row) {
  size_t best = 0;
  for_each_above(row, [&] { return row[best]; }, [&](size_t i) { best = i; });
  return best;
}

/// Throws unless every logit is a number below +inf and one is above -inf.
void check_logits(std::span<const float> logits) {
  if (logits.empty()) throw Error(ErrorKind::kInternal, "no logits to sample from");
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  uint32_t n_bad = 0, n_possible = 0;
  for (const float l : logits) {
    n_bad += !(l < kInfinity);
    n_possible += l > -kInfinity;
  }
  for (size_t i = 0; n_bad > 0 && i < logits.size(); ++i) {
    if (logits[i] < kInfinity) continue;
    throw Error(ErrorKind::kInternal, fmt::format("logit {} is {}: expected a finite number or -inf", i, logits[i]));
  }
  if (n_possible == 0) throw Error(ErrorKind::kInternal, fmt::format("all {} logits are -inf", logits.size()));
}

/// The order of candidates: it decides ties and, in the draw, which token a random number stands for.
bool comes_first(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// The `k` first candidates of a row, in no order. One pass: a full buffer is cut back to k, and what can't enter any
/// more is skipped.
std::vector<Sampler::Candidate> select_top_k(std::span<const float> row, size_t k) {
  std::vector<Sampler::Candidate> kept;
  const size_t capacity = std::min(row.size(), 2 * k + 256);
  kept.reserve(capacity);
  float threshold = -std::numeric_limits<float>::infinity();   // an equal logit further on has a higher id and stays out
  const auto cut = [&] {
    const auto last = kept.begin() + static_cast<ptrdiff_t>(k) - 1;
    std::nth_element(kept.begin(), last, kept.end(), comes_first);
    threshold = last->logit;
    kept.resize(k);
  };
  for_each_above(row, [&] { return threshold; }, [&](size_t i) {
    kept.push_back({row[i], 0.0f, static_cast<TokenId>(i)});
    if (kept.size() == capacity && capacity > k) cut();
  });
  if (kept.size() > k) cut();
  return kept;
}

/// The first of sorted candidates with which the running sum of weights, from `before` on, reaches the target.
Sampler::Candidate reach_target(std::span<const Sampler::Candidate> sorted, double before, double target) {
  const Sampler::Candidate* last = &sorted.front();
  for (const Sampler::Candidate& c : sorted) {
    last = &c;
    before += static_cast<double>(c.weight);
    if (before >= target) break;
  }
  return *last;   // also when rounding leaves the target just out of reach
}

/// Weights e^(scale * (logit - top)) counted in bins of nearly equal logits, from the likeliest down.
struct Bins {
  static constexpr float kPerNat = 8;
  static constexpr int32_t kCount = 87 * 8 + 1;   // what is in the last one, e^-87 and less of the first, is never drawn
  std::array<double, kCount> weights{};
  double total = 0;
};

int32_t bin_of(float logit, float top, float scale) {
  const float bin = (top - logit) * scale * Bins::kPerNat;
  return static_cast<int32_t>(bin < Bins::kCount - 1 ? bin : Bins::kCount - 1);
}

// Twice as wide where the machine can; without fused multiply-add, so that the numbers are the same everywhere.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("default", "avx2")))
#endif
void weigh(const float* logits, size_t n, float top, float scale, float* weights, int32_t* bins) {
  for (size_t i = 0; i < n; ++i) weights[i] = exp_not_positive((logits[i] - top) * scale);
  for (size_t i = 0; i < n; ++i) bins[i] = bin_of(logits[i], top, scale);
}

Bins count_in_bins(std::span<const float> row, float top, float scale) {
  // Neighbours are counted in tables of their own: additions to one bin would wait for each other.
  std::array<double, Bins::kCount> a{}, b{}, c{}, d{};
  constexpr size_t kPart = 1024;
  std::array<float, kPart> weights;
  std::array<int32_t, kPart> bins;
  const auto add = [&](auto& table, size_t i) { table[static_cast<size_t>(bins[i])] += static_cast<double>(weights[i]); };
  for (size_t begin = 0; begin < row.size(); begin += kPart) {
    const size_t n = std::min(kPart, row.size() - begin);
    weigh(row.data() + begin, n, top, scale, weights.data(), bins.data());
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      add(a, i);
      add(b, i + 1);
      add(c, i + 2);
      add(d, i + 3);
    }
    for (; i < n; ++i) add(a, i);
  }
  Bins sums;
  for (size_t bin = 0; bin + 1 < sums.weights.size(); ++bin) {
    sums.weights[bin] = (a[bin] + b[bin]) + (c[bin] + d[bin]);
    sums.total += sums.weights[bin];
  }
  return sums;
}

}  // namespace

/// Candidate i is logits[i] with ids[i], or the whole row with i itself when there are no ids.
struct Sampler::Candidates {
  std::span<const float> logits;
  std::span<const TokenId> ids;
  TokenId id(size_t i) const { return ids.empty() ? static_cast<TokenId>(i) : ids[i]; }
};

/// Those candidates that are not behind {least, last_id} in the candidates' order, in `out`.
Sampler::Candidates Sampler::filter(const Candidates& c, float least, TokenId last_id, Kept& out) {
  const size_t n_all = c.logits.size();
  if (out.logits.size() < n_all) {
    out.logits.resize(n_all);
    out.ids.resize(n_all);
  }
  const float below = std::nextafter(least, -std::numeric_limits<float>::infinity());
  size_t n = 0;
  for (size_t begin = 0; begin < n_all; begin += kBlock) {
    const std::span<const float> block = c.logits.subspan(begin, std::min(kBlock, n_all - begin));
    if (!is_any_above(block, below)) continue;
    // Written in any case and counted if kept: a branch would be mispredicted for every other candidate.
    for (size_t i = 0; i < block.size(); ++i) {
      const TokenId id = c.id(begin + i);
      out.logits[n] = block[i];
      out.ids[n] = id;
      n += static_cast<size_t>(block[i] > least) | (static_cast<size_t>(block[i] == least) & static_cast<size_t>(id <= last_id));
    }
  }
  return {std::span(out.logits).first(n), std::span(out.ids).first(n)};
}

/// The last candidate of the shortest prefix, in the candidates' order, that holds `fraction` of the weight
/// e^(scale * logit). Instead of sorting, candidates are counted in bins; only the bin that the target falls into is sorted.
Sampler::Candidate Sampler::find_border(const Candidates& c, float scale, double fraction) {
  const float top = c.logits[find_largest(c.logits)];
  const Bins bins = count_in_bins(c.logits, top, scale);
  const double target = fraction * bins.total;
  size_t bin = 0;
  double before = 0;
  while (bin + 1 < bins.weights.size() && before + bins.weights[bin] < target) before += bins.weights[bin++];
  while (bins.weights[bin] == 0) before -= bins.weights[--bin];   // out of reach by rounding: the last that holds anything

  std::vector<Candidate> border;
  // Lower than need be, for rounding: by a bin and, where a bin is narrower than a float's step, by that step.
  const float below = std::nextafter(top - static_cast<float>(bin + 2) / (Bins::kPerNat * scale), -std::numeric_limits<float>::infinity());
  for_each_above(c.logits, [&] { return below; }, [&](size_t i) {
    if (bin_of(c.logits[i], top, scale) != static_cast<int32_t>(bin)) return;
    border.push_back({c.logits[i], exp_not_positive((c.logits[i] - top) * scale), c.id(i)});
  });
  std::sort(border.begin(), border.end(), comes_first);
  return reach_target(border, before, target);
}

bool SamplerOptions::is_greedy() const {
  const bool has_penalty = penalty_last_n != 0 && (repeat_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f);
  return (temperature <= 0.0f || top_k == 1) && !has_penalty;
}

Sampler::Sampler(const SamplerOptions& options)
    : options_(options), rng_(options.seed == 0xFFFFFFFFu ? std::random_device{}() : options.seed) {
  const auto require = [](bool ok, std::string_view name, double found, std::string_view expected) {
    if (!ok) throw Error(ErrorKind::kUsage, fmt::format("sampler option {}: expected {}, found {}", name, expected, found));
  };
  require(std::isfinite(options.temperature), "temperature", options.temperature, "a finite number");
  require(!std::isnan(options.top_p), "top_p", options.top_p, "a number");
  require(options.min_p <= 1.0f, "min_p", options.min_p, "a number up to 1");
  require(std::isfinite(options.repeat_penalty) && options.repeat_penalty > 0, "repeat_penalty", options.repeat_penalty, "a positive number");
  require(std::isfinite(options.frequency_penalty), "frequency_penalty", options.frequency_penalty, "a finite number");
  require(std::isfinite(options.presence_penalty), "presence_penalty", options.presence_penalty, "a finite number");
  require(options.penalty_last_n >= -1, "penalty_last_n", options.penalty_last_n, "-1 or more");
}

void Sampler::accept(TokenId id) {
  if (options_.penalty_last_n == 0 || id < 0) return;
  const auto window = static_cast<size_t>(options_.penalty_last_n);   // -1: larger than any history
  if (options_.penalty_last_n > 0 && history_.size() == window) {
    TokenId& oldest = history_[oldest_];
    if (--counts_[oldest] == 0) counts_.erase(oldest);
    oldest = id;
    oldest_ = (oldest_ + 1) % window;
  } else {
    history_.push_back(id);
  }
  ++counts_[id];
}

std::span<const float> Sampler::penalise(std::span<const float> logits) {
  const SamplerOptions& o = options_;
  if (counts_.empty() || (o.repeat_penalty == 1.0f && o.frequency_penalty == 0.0f && o.presence_penalty == 0.0f)) return logits;
  penalised_.assign(logits.begin(), logits.end());
  for (const auto& [id, count] : counts_) {
    if (static_cast<size_t>(id) >= penalised_.size()) continue;
    float& l = penalised_[static_cast<size_t>(id)];
    l = l <= 0.0f ? l * o.repeat_penalty : l / o.repeat_penalty;
    l -= static_cast<float>(count) * o.frequency_penalty + o.presence_penalty;
  }
  return penalised_;
}

TokenId Sampler::sample(std::span<const float> logits) {
  logits = penalise(logits);
  check_logits(logits);
  const SamplerOptions& o = options_;
  if (o.temperature <= 0.0f || o.top_k == 1) return static_cast<TokenId>(find_largest(logits));

  Candidates c{logits, {}};
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < logits.size()) {
    Kept& first = kept_[0];
    first.logits.clear();
    first.ids.clear();
    for (const Candidate& kept : select_top_k(logits, static_cast<size_t>(o.top_k))) {
      first.logits.push_back(kept.logit);
      first.ids.push_back(kept.id);
    }
    c = {first.logits, first.ids};
  }
  if (o.top_p < 1.0f) {
    const Candidate last = find_border(c, 1.0f, std::max(static_cast<double>(o.top_p), 0.0));
    c = filter(c, last.logit, last.id, kept_[1]);
  }
  if (o.min_p > 0.0f) {
    Kept& free = kept_[c.logits.data() == kept_[0].logits.data() ? 1 : 0];
    c = filter(c, c.logits[find_largest(c.logits)] + std::log(o.min_p), kLastId, free);
  }
  if (c.logits.size() == 1) return c.id(0);   // the generator is not used
  const double u = std::ldexp(static_cast<double>((uint64_t{rng_() >> 5} << 26) | (rng_() >> 6)), -53);   // [0, 1)
  return find_border(c, std::min(1.0f / o.temperature, kSharpest), u).id;
}

}  // namespace sj
