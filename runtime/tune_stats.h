// Numbers to verdicts: what paired times of a candidate and of the default say. Pure functions. Called by the tuner and its bench.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sj {

/// Middle value, the mean of the two middle ones for an even count. Throws kInternal for none.
double median_of(std::vector<double> values);

/// Candidate and base in turns, so that a clock that drifts moves both: sample i of one was taken right beside sample i of the other.
struct PairedTimes {
  std::vector<double> base_us, candidate_us;
};

struct Comparison {
  double base_us = 0, candidate_us = 0;   ///< medians
  double gain_us = 0;                     ///< median of base - candidate, pair by pair
  /// How far the gain may be off by chance: the standard error of a median of n differences of normal noise,
  /// 1.4826 MAD sqrt(pi / 2) / sqrt(n), where 1.4826 MAD (the median distance from the median) is the deviation of normal noise.
  double noise_us = 0;
};
/// Throws kInternal unless both have the same number of samples, at least one.
Comparison compare_times(const PairedTimes& times);

/// The default, loaded and captured a second time and measured like a candidate, shows what a gain of nothing looks like; so the
/// noise of a verdict is no smaller than that gain's size, and no smaller than either measurement's own noise.
double verdict_noise_us(const Comparison& candidate, const Comparison& null);

inline constexpr double kNoisesToWin = 3;   ///< a candidate wins by more than so many noises

bool is_winner(const Comparison& candidate, const Comparison& null);

/// Which of `measured` are measured longer: those whose gain is within kNoisesToWin noises (the best one's, their own, and what is
/// usual among all: a few samples may lie close together by chance) of the best, at most `n_most`, best first. Indices.
std::vector<size_t> best_of(std::span<const Comparison> measured, size_t n_most);

}  // namespace sj
