#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "jit/base/error.h"

namespace sj::sampler_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Everything off but the temperature.
SamplerOptions plain(uint32_t seed = 1) {
  SamplerOptions o;
  o.temperature = 1.0f;
  o.top_k = 0;
  o.top_p = 1.0f;
  o.min_p = 0.0f;
  o.seed = seed;
  return o;
}

std::vector<float> random_row(size_t n, float sigma, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> row(n);
  for (float& l : row) l = normal(rng);
  return row;
}

/// The specification in the plainest form: sort everything, walk. In: a row; out: the candidates' probabilities in order.
std::vector<std::pair<TokenId, double>> reference(const std::vector<float>& row, const SamplerOptions& o) {
  std::vector<std::pair<TokenId, double>> c;   // id, logit
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] > -kInfinity) c.emplace_back(static_cast<TokenId>(i), row[i]);
  }
  std::stable_sort(c.begin(), c.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  if (o.top_k > 0) c.resize(std::min(c.size(), static_cast<size_t>(o.top_k)));
  const auto softmax = [](const auto& of, double scale) {
    std::vector<double> p;
    for (const auto& [id, logit] : of) p.push_back(std::exp((logit - of.front().second) * scale));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= total;
    return p;
  };
  if (o.top_p < 1.0f) {
    const std::vector<double> p = softmax(c, 1.0);
    size_t n = 0;
    double sum = 0;
    while (n < c.size() && (n == 0 || sum < static_cast<double>(o.top_p))) sum += p[n++];
    c.resize(n);
  }
  if (o.min_p > 0.0f) {
    const double least = c.front().second + std::log(static_cast<double>(o.min_p));
    std::erase_if(c, [&](const auto& x) { return x.second < least; });
  }
  const std::vector<double> p = softmax(c, 1.0 / static_cast<double>(o.temperature));
  for (size_t i = 0; i < c.size(); ++i) c[i].second = p[i];
  return c;
}

/// Chi-square of draws against the reference, in standard deviations above its mean.
double chi_square_sigmas(const std::vector<float>& row, const SamplerOptions& o, int n_draws) {
  Sampler sampler(o);
  std::map<TokenId, int> counts;
  for (int i = 0; i < n_draws; ++i) ++counts[sampler.sample(row)];
  double chi2 = 0, rest_expected = 0;
  int n_cells = 0, rest_found = 0, n_known = 0;
  for (const auto& [id, p] : reference(row, o)) {
    const double expected = p * n_draws;
    const int found = counts.contains(id) ? counts[id] : 0;
    n_known += found;
    if (expected < 5) {   // too few for the approximation: one cell together
      rest_expected += expected;
      rest_found += found;
      continue;
    }
    chi2 += (found - expected) * (found - expected) / expected;
    ++n_cells;
  }
  if (rest_expected >= 5) {
    chi2 += (rest_found - rest_expected) * (rest_found - rest_expected) / rest_expected;
    ++n_cells;
  }
  EXPECT_EQ(n_known, n_draws) << "a token was drawn that is no candidate";
  const double df = n_cells - 1;
  return df > 0 ? (chi2 - df) / std::sqrt(2 * df) : 0;
}

TEST(Sampler, DrawsFromTheSpecifiedDistribution) {
  struct Case { int32_t top_k; float top_p, min_p, temperature; };
  const Case cases[] = {{0, 1.0f, 0.0f, 1.0f}, {0, 1.0f, 0.0f, 0.5f}, {0, 1.0f, 0.0f, 2.0f}, {40, 0.95f, 0.05f, 0.8f}, {7, 1.0f, 0.0f, 1.5f},
                        {0, 0.6f, 0.0f, 1.0f}, {0, 1.0f, 0.1f, 1.0f}, {5, 0.9f, 0.2f, 3.0f}, {1000, 0.99f, 0.0f, 1.0f}};
  for (const Case& c : cases) {
    for (const size_t n : {size_t{3}, size_t{50}, size_t{3000}}) {
      SamplerOptions o = plain(42);
      o.top_k = c.top_k, o.top_p = c.top_p, o.min_p = c.min_p, o.temperature = c.temperature;
      // 27 tests of one seed: 5 sigmas above the mean has a chance below 1e-4 altogether even with chi-square's long tail.
      EXPECT_LT(chi_square_sigmas(random_row(n, 2.0f, 7), o, 4000), 5.0)
          << "k " << c.top_k << " p " << c.top_p << " min_p " << c.min_p << " T " << c.temperature << " n " << n;
    }
  }
}

TEST(Sampler, KeepsExactlyTheCandidatesOfTheSpecification) {
  SamplerOptions o = plain(3);
  o.temperature = 50.0f;   // nearly uniform, so every candidate turns up
  o.top_k = 12, o.top_p = 0.9f, o.min_p = 0.02f;
  const std::vector<float> row = random_row(5000, 2.0f, 11);
  Sampler sampler(o);
  std::map<TokenId, int> counts;
  for (int i = 0; i < 5000; ++i) ++counts[sampler.sample(row)];
  std::vector<TokenId> found, expected;
  for (const auto& [id, n] : counts) found.push_back(id);
  for (const auto& [id, p] : reference(row, o)) expected.push_back(id);
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(found, expected);
}

TEST(Sampler, DrawWalksCandidatesInOrderOfLogitThenId) {
  // The random number is reproduced from the same generator; the walk is over the sorted list.
  const std::vector<float> row = {1.0f, 2.0f, 2.0f, 0.0f, 1.0f};
  const std::vector<TokenId> order = {1, 2, 0, 4, 3};
  Sampler sampler(plain(5));
  std::mt19937 rng(5);
  for (int i = 0; i < 1000; ++i) {
    const double high = rng() >> 5, low = rng() >> 6;
    const double u = (high * 67108864.0 + low) / 9007199254740992.0;
    double total = 0;
    for (const float l : row) total += std::exp(static_cast<double>(l) - 2);
    double sum = 0;
    TokenId expected = order.back();
    for (const TokenId id : order) {
      sum += std::exp(static_cast<double>(row[static_cast<size_t>(id)]) - 2);
      if (sum >= u * total) {
        expected = id;
        break;
      }
    }
    ASSERT_EQ(sampler.sample(row), expected) << "draw " << i;
  }
}

TEST(Sampler, SameSeedDrawsTheSameAndACopyGoesOnAlike) {
  const std::vector<float> row = random_row(1000, 2.0f, 1);
  Sampler a(plain(9)), b(plain(9)), other(plain(10));
  int n_other = 0;
  for (int i = 0; i < 100; ++i) {
    const TokenId id = a.sample(row);
    ASSERT_EQ(id, b.sample(row));
    n_other += id != other.sample(row);
  }
  EXPECT_GT(n_other, 50);
  Sampler copy = a;
  for (int i = 0; i < 100; ++i) ASSERT_EQ(copy.sample(row), a.sample(row));
}

TEST(Sampler, RandomSeedsDiffer) {
  const std::vector<float> row(1000, 0.0f);
  Sampler a(plain(0xFFFFFFFFu)), b(plain(0xFFFFFFFFu));
  int n_equal = 0;
  for (int i = 0; i < 100; ++i) n_equal += a.sample(row) == b.sample(row);
  EXPECT_LT(n_equal, 20);
}

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  SamplerOptions o = plain();
  for (const auto& [temperature, top_k] : {std::pair{0.0f, 0}, std::pair{-1.0f, 40}, std::pair{1.0f, 1}}) {
    o.temperature = temperature, o.top_k = top_k;
    EXPECT_TRUE(o.is_greedy());
    Sampler sampler(o);
    EXPECT_EQ(sampler.sample(std::vector<float>{-1, 3, 2, 3, -kInfinity}), 1);
    std::vector<float> row(1000, -5.0f);
    row[777] = row[778] = -4.0f;
    EXPECT_EQ(sampler.sample(row), 777);
  }
}

TEST(Sampler, TinyTemperatureIsGreedyAndHasNoInfinityInside) {
  SamplerOptions o = plain();
  for (const float temperature : {1e-10f, 1e-30f, 1e-38f, 1e-44f}) {   // 1 / 1e-44 is infinite
    o.temperature = temperature;
    EXPECT_EQ(Sampler(o).sample(std::vector<float>{-1, 3, 2, 3.5f, -kInfinity}), 3) << temperature;
  }
}

TEST(Sampler, GreedyOnlyWithoutPenalties) {
  SamplerOptions o = plain();
  EXPECT_FALSE(o.is_greedy());
  o.temperature = 0;
  o.repeat_penalty = 1.1f;
  EXPECT_FALSE(o.is_greedy());
  o.penalty_last_n = 0;
  EXPECT_TRUE(o.is_greedy());
}

TEST(Sampler, TopKPrefersLowerIdsAtTheBorder) {
  SamplerOptions o = plain();
  o.top_k = 3;
  const std::vector<float> row(500, 1.0f);
  Sampler sampler(o);
  for (int i = 0; i < 200; ++i) EXPECT_LT(sampler.sample(row), 3);
}

TEST(Sampler, TopPKeepsAtLeastOneAndPrefersLowerIds) {
  SamplerOptions o = plain();
  o.top_p = 0.0f;
  EXPECT_EQ(Sampler(o).sample(std::vector<float>{0, 5, 5}), 1);
  o.top_p = 0.5f;
  Sampler sampler(o);
  const std::vector<float> row(100, 1.0f);
  for (int i = 0; i < 500; ++i) EXPECT_LT(sampler.sample(row), 50);
}

TEST(Sampler, BannedTokensAreNeverDrawn) {
  std::vector<float> row(300, -kInfinity);
  row[17] = -1000.0f;
  row[200] = -1000.0f;
  Sampler sampler(plain());
  for (int i = 0; i < 300; ++i) {
    const TokenId id = sampler.sample(row);
    EXPECT_TRUE(id == 17 || id == 200) << id;
  }
}

TEST(Sampler, UsesNoRandomNumberForASingleCandidate) {
  const std::vector<float> row = random_row(100, 2.0f, 1);
  std::vector<float> single(100, -kInfinity);
  single[3] = 0;
  SamplerOptions o = plain(4);
  o.min_p = 1e-6f;
  Sampler a(o), b(o);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(a.sample(single), 3);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(a.sample(row), b.sample(row));
}

TEST(Sampler, RepeatPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  SamplerOptions o = plain();
  o.temperature = 0;
  o.repeat_penalty = 2.0f;
  Sampler sampler(o);
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(std::vector<float>{3.0f, 1.6f}), 1);     // 3 / 2 < 1.6
  EXPECT_EQ(sampler.sample(std::vector<float>{3.0f, 1.4f}), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{-1.0f, -1.9f}), 1);   // -1 * 2 < -1.9
  EXPECT_EQ(sampler.sample(std::vector<float>{-1.0f, -2.1f}), 0);
  sampler.accept(0);                                                // once a distinct token, not once an occurrence
  EXPECT_EQ(sampler.sample(std::vector<float>{3.0f, 1.4f}), 0);
}

TEST(Sampler, FrequencyCountsOccurrencesAndPresenceDoesNot) {
  SamplerOptions o = plain();
  o.temperature = 0;
  o.frequency_penalty = 0.5f;
  o.presence_penalty = 0.25f;
  Sampler sampler(o);
  sampler.accept(0);
  sampler.accept(0);   // 2 * 0.5 + 0.25 = 1.25
  EXPECT_EQ(sampler.sample(std::vector<float>{1.2f, 0.0f}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{1.3f, 0.0f}), 0);
}

TEST(Sampler, PenaltyWindowForgetsOldTokens) {
  SamplerOptions o = plain();
  o.temperature = 0;
  o.presence_penalty = 10.0f;
  o.penalty_last_n = 2;
  Sampler sampler(o);
  const std::vector<float> row = {3, 2, 1, 0};
  sampler.accept(0);
  sampler.accept(1);
  EXPECT_EQ(sampler.sample(row), 2);
  sampler.accept(3);
  EXPECT_EQ(sampler.sample(row), 0);
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(row), 1);
  o.penalty_last_n = -1;
  Sampler whole(o);
  for (TokenId id = 0; id < 3; ++id) whole.accept(id);
  for (int i = 0; i < 1000; ++i) whole.accept(0);
  EXPECT_EQ(whole.sample(row), 3);
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  const auto message = [](std::vector<float> row) {
    try {
      Sampler(plain()).sample(row);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInternal);
      return e.message();
    }
    return std::string("no error");
  };
  EXPECT_EQ(message({0, 1, std::nanf("")}), "logit 2 is nan: expected a finite number or -inf");
  EXPECT_EQ(message({0, kInfinity, 1}), "logit 1 is inf: expected a finite number or -inf");
  EXPECT_EQ(message({-kInfinity, -kInfinity}), "all 2 logits are -inf");
  EXPECT_EQ(message({}), "no logits to sample from");
}

TEST(Sampler, RefusesLogitsThatAPenaltyMakesInfinite) {
  SamplerOptions o = plain();
  o.repeat_penalty = 1e-3f;
  Sampler sampler(o);
  sampler.accept(1);
  try {
    sampler.sample(std::vector<float>{0, 3e38f, 1});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.message(), "logit 1 is inf: expected a finite number or -inf");
  }
}

TEST(Sampler, RefusesNaNInGreedyModeToo) {
  SamplerOptions o = plain();
  o.temperature = 0;
  EXPECT_THROW(Sampler(o).sample(std::vector<float>{std::nanf(""), 1}), Error);
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  SamplerOptions o = plain();
  o.repeat_penalty = 0;
  try {
    Sampler sampler(o);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_EQ(e.message(), "sampler option repeat_penalty: expected a positive number, found 0");
  }
  o = plain();
  o.temperature = std::nanf("");
  EXPECT_THROW(Sampler{o}, Error);
}

TEST(Sampler, HandlesALargeVocabularyLikeTheReference) {
  const std::vector<float> row = random_row(262144, 3.0f, 2);
  SamplerOptions o = plain(6);
  for (const auto& [k, p] : {std::pair{40, 0.95f}, std::pair{0, 0.95f}, std::pair{0, 1.0f}}) {
    o.top_k = k, o.top_p = p;
    EXPECT_LT(chi_square_sigmas(row, o, 60), 5.0) << "k " << k << " p " << p;
  }
}

}  // namespace
}  // namespace sj::sampler_test
