#include "runtime/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

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
size_t argmax(std::span<const float> row) {
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

}  // namespace

/// Candidate i is logits[i] with ids[i], or the whole row with i itself when there are no ids.
struct Sampler::Candidates {
  std::span<const float> logits;
  std::span<const TokenId> ids;
  TokenId id(size_t i) const { return ids.empty() ? static_cast<TokenId>(i) : ids[i]; }
};

/// The last candidate of the shortest prefix, in the candidates' order, that holds `fraction` of the weight
/// e^(scale * logit). Instead of sorting, candidates are counted in bins of nearly equal logits; only the bin that the
/// target falls into is sorted.
Sampler::Candidate Sampler::find_border(const Candidates& c, float scale, double fraction) {
  const size_t n = c.logits.size();
  const float top = c.logits[argmax(c.logits)];
  constexpr float kBinsPerNat = 8;
  constexpr int32_t kBins = 87 * 8 + 1;   // what is in the last one, e^-87 and less of the first, is never drawn
  weights_.resize(n);
  bin_of_.resize(n);
  const float* const logits = c.logits.data();
  float* const weights = weights_.data();
  int32_t* const bin_of = bin_of_.data();
  for (size_t i = 0; i < n; ++i) weights[i] = exp_not_positive((logits[i] - top) * scale);
  for (size_t i = 0; i < n; ++i) {
    const float bin = (top - logits[i]) * scale * kBinsPerNat;
    bin_of[i] = static_cast<int32_t>(bin < kBins - 1 ? bin : kBins - 1);
  }
  std::array<double, kBins> bins{};
  for (size_t i = 0; i < n; ++i) bins[static_cast<size_t>(bin_of[i])] += static_cast<double>(weights[i]);
  bins.back() = 0;
  double total = 0;
  for (const double weight : bins) total += weight;

  const double target = std::max(fraction, 0.0) * total;
  size_t bin = 0;
  double before = 0;
  while (bin + 1 < bins.size() && before + bins[bin] < target) before += bins[bin++];
  while (bins[bin] == 0) before -= bins[--bin];   // out of reach by rounding: the last that holds anything
  std::vector<Candidate> border;
  for (size_t i = 0; i < n; ++i) {
    if (bin_of[i] == static_cast<int32_t>(bin)) border.push_back({logits[i], weights[i], c.id(i)});
  }
  std::sort(border.begin(), border.end(), comes_first);
  return reach_target(border, before, target);
}

/// Makes kept_logits_ and kept_ids_ the candidates for which keep(logit, id) holds.
template <class Keep>
Sampler::Candidates Sampler::filter(const Candidates& c, const Keep& keep) {
  std::vector<float> logits;
  std::vector<TokenId> ids;
  for (size_t i = 0; i < c.logits.size(); ++i) {
    if (!keep(c.logits[i], c.id(i))) continue;
    logits.push_back(c.logits[i]);
    ids.push_back(c.id(i));
  }
  kept_logits_ = std::move(logits);
  kept_ids_ = std::move(ids);
  return {kept_logits_, kept_ids_};
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
  check_logits(logits);
  logits = penalise(logits);
  const SamplerOptions& o = options_;
  if (o.temperature <= 0.0f || o.top_k == 1) return static_cast<TokenId>(argmax(logits));

  Candidates c{logits, {}};
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < logits.size()) {
    kept_logits_.clear();
    kept_ids_.clear();
    for (const Candidate& kept : select_top_k(logits, static_cast<size_t>(o.top_k))) {
      kept_logits_.push_back(kept.logit);
      kept_ids_.push_back(kept.id);
    }
    c = {kept_logits_, kept_ids_};
  }
  if (o.top_p < 1.0f) {
    const Candidate last = find_border(c, 1.0f, static_cast<double>(o.top_p));
    c = filter(c, [&](float logit, TokenId id) { return logit > last.logit || (logit == last.logit && id <= last.id); });
  }
  if (o.min_p > 0.0f) {
    const float least = c.logits[argmax(c.logits)] + std::log(o.min_p);
    c = filter(c, [&](float logit, TokenId) { return logit >= least; });
  }
  if (c.logits.size() == 1) return c.id(0);   // the generator is not used
  const double u = std::ldexp(static_cast<double>((uint64_t{rng_() >> 5} << 26) | (rng_() >> 6)), -53);   // [0, 1)
  return find_border(c, 1.0f / o.temperature, u).id;
}

}  // namespace sj
