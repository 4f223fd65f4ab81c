#include "runtime/tune_stats.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {

double median_of(std::vector<double> values) {
  if (values.empty()) throw Error(ErrorKind::kInternal, "median of no samples");
  const size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Comparison compare_times(const PairedTimes& times) {
  const size_t n = times.base_us.size();
  if (n == 0 || n != times.candidate_us.size())
    throw Error(ErrorKind::kInternal, fmt::format("paired times: {} of the base, {} of the candidate", n, times.candidate_us.size()));
  std::vector<double> gains(n), distances(n);
  for (size_t i = 0; i < n; ++i) gains[i] = times.base_us[i] - times.candidate_us[i];
  const double gain = median_of(gains);
  for (size_t i = 0; i < n; ++i) distances[i] = std::abs(gains[i] - gain);
  const double deviation = 1.4826 * median_of(distances);
  return {.base_us = median_of(times.base_us), .candidate_us = median_of(times.candidate_us), .gain_us = gain,
          .noise_us = deviation * std::sqrt(std::numbers::pi / 2 / static_cast<double>(n))};
}

double verdict_noise_us(const Comparison& candidate, const Comparison& null) {
  return std::max({candidate.noise_us, null.noise_us, std::abs(null.gain_us)});
}

bool is_winner(const Comparison& candidate, const Comparison& null) {
  return candidate.gain_us > kNoisesToWin * verdict_noise_us(candidate, null);
}

std::vector<size_t> best_of(std::span<const Comparison> measured, size_t n_most) {
  std::vector<size_t> order(measured.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return measured[a].gain_us > measured[b].gain_us; });
  if (order.empty()) return order;
  std::vector<double> noises;
  for (const Comparison& c : measured) noises.push_back(c.noise_us);
  const double usual_us = median_of(std::move(noises));
  const Comparison& best = measured[order.front()];
  std::erase_if(order, [&](size_t i) {
    return best.gain_us - measured[i].gain_us > kNoisesToWin * std::max({best.noise_us, measured[i].noise_us, usual_us});
  });
  if (order.size() > n_most) order.resize(n_most);
  return order;
}

}  // namespace sj
