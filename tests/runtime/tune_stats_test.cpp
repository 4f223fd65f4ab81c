// What numbers say: medians, noise, and who wins.
#include "runtime/tune_stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/support/error_checks.h"

namespace sj::tune_stats_test {
namespace {

/// Base and candidate in turns on a clock that drifts; each sample with normal noise.
PairedTimes drifting(double base_us, double candidate_us, double noise_us, double drift, uint32_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> noise(0, noise_us);
  PairedTimes times;
  for (uint32_t i = 0; i < n; ++i) {
    const double scale = 1 + drift * i;
    times.base_us.push_back(base_us * scale + noise(random));
    times.candidate_us.push_back(candidate_us * scale + noise(random));
  }
  return times;
}

TEST(TuneStats, MedianOfOddAndEvenCounts) {
  EXPECT_EQ(median_of({3, 1, 2}), 2);
  EXPECT_EQ(median_of({4, 1, 2, 3}), 2.5);
  EXPECT_TRUE(test::throws_error([] { median_of({}); }, ErrorKind::kInternal, "no samples"));
  EXPECT_TRUE(test::throws_error([] { compare_times({{1, 2}, {1}}); }, ErrorKind::kInternal, "2 of the base, 1 of the candidate"));
}

TEST(TuneStats, OneOutlierMovesNothing) {
  const Comparison c = compare_times({{100, 100, 100, 100, 500}, {90, 90, 90, 90, 90}});
  EXPECT_EQ(c.base_us, 100);
  EXPECT_EQ(c.candidate_us, 90);
  EXPECT_EQ(c.gain_us, 10);
  EXPECT_EQ(c.noise_us, 0);
}

TEST(TuneStats, NoiseIsTheStandardErrorOfTheMedian) {
  // Differences of two samples of deviation 1 have deviation sqrt(2); the median of n of them sqrt(2) sqrt(pi / 2) / sqrt(n).
  double sum = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) sum += compare_times(drifting(1000, 1000, 1, 0, 101, seed)).noise_us;
  const double expected = std::sqrt(2.0) * std::sqrt(std::acos(-1.0) / 2 / 101);
  EXPECT_NEAR(sum / 200, expected, 0.05 * expected);   // the deviation of 200 means of an estimate that is good to 20 %
}

TEST(TuneStats, DriftMovesBothAndIsNotTakenForAGain) {
  const Comparison null = compare_times(drifting(1000, 1000, 0.5, 0, 25, 1));
  EXPECT_FALSE(is_winner(compare_times(drifting(1000, 1000, 0.5, 0.01, 25, 2)), null));
  EXPECT_TRUE(is_winner(compare_times(drifting(1000, 990, 0.5, 0.01, 25, 3)), null));
}

TEST(TuneStats, AGainWithinTheNoiseNeverWins) {
  // Of 300 candidates that are equal to the default, by chance some look faster; three noises let through one in 700.
  uint32_t n_winners = 0;
  for (uint32_t seed = 0; seed < 300; ++seed)
    n_winners += is_winner(compare_times(drifting(1000, 1000, 2, 0, 25, seed)), compare_times(drifting(1000, 1000, 2, 0, 25, seed + 1000)));
  EXPECT_LE(n_winners, 3u);
}

TEST(TuneStats, WhatTheDefaultGainsAgainstItselfIsNoise) {
  const Comparison candidate{.base_us = 1000, .candidate_us = 990, .gain_us = 10, .noise_us = 0.1};
  EXPECT_TRUE(is_winner(candidate, {.base_us = 1000, .candidate_us = 999, .gain_us = 1, .noise_us = 0.1}));
  EXPECT_FALSE(is_winner(candidate, {.base_us = 1000, .candidate_us = 996, .gain_us = 4, .noise_us = 0.1}));
  EXPECT_FALSE(is_winner(candidate, {.base_us = 1000, .candidate_us = 1004, .gain_us = -4, .noise_us = 0.1}));
  EXPECT_FALSE(is_winner(candidate, {.base_us = 1000, .candidate_us = 1000, .gain_us = 0, .noise_us = 4}));
  EXPECT_FALSE(is_winner({.gain_us = 0, .noise_us = 0}, {})) << "nothing gained";
}

TEST(TuneStats, LosersAreLostEarlyAndTheRestInOrder) {
  const auto with = [](double gain, double noise) { return Comparison{.base_us = 100, .candidate_us = 100 - gain, .gain_us = gain, .noise_us = noise}; };
  const std::vector<Comparison> all = {with(1, 1), with(5, 1), with(-50, 1), with(4, 1), with(2.1, 1), with(-3, 3)};
  EXPECT_EQ(best_of(all, 10), (std::vector<size_t>{1, 3, 4, 5})) << "2.1 is 2.9 noises behind the best, 1 is 4; -3 is unsure itself";
  EXPECT_EQ(best_of(all, 2), (std::vector<size_t>{1, 3}));
  EXPECT_TRUE(best_of({}, 3).empty());
}

}  // namespace
}  // namespace sj::tune_stats_test
