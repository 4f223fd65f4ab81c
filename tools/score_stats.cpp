#include "tools/score_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "jit/base/error.h"
#include "tools/bench_report.h"

namespace sj {

double log_sum_exp(std::span<const float> logits) {
  if (logits.empty()) throw Error(ErrorKind::kInternal, "log_sum_exp: no logits");
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
  return max + std::log(sum);
}

void ScoreStats::add(std::span<const float> logits, TokenId next) {
  ++n_rows_;
  if (next < 0) return;
  sum_nll_ += log_sum_exp(logits) - static_cast<double>(logits[static_cast<size_t>(next)]);
  ++n_predicted_;
}

void ScoreStats::compare(std::span<const float> logits, std::span<const float> reference) {
  if (logits.size() != reference.size())
    throw Error(ErrorKind::kInternal, fmt::format("score: {} logits against {} in the reference", logits.size(), reference.size()));
  const auto top = [](std::span<const float> row) { return std::max_element(row.begin(), row.end()) - row.begin(); };
  n_agreeing_ += top(logits) == top(reference) ? 1 : 0;
  const double our_sum = log_sum_exp(logits), reference_sum = log_sum_exp(reference);
  double kl = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double ours = static_cast<double>(logits[i]) - our_sum, theirs = static_cast<double>(reference[i]) - reference_sum;
    if (std::isfinite(theirs)) kl += std::exp(theirs) * (theirs - ours);   // a banned token (-inf) has weight 0
    const double difference = std::fabs(static_cast<double>(logits[i]) - static_cast<double>(reference[i]));
    if (difference > max_abs_difference_ || std::isnan(difference)) {      // a NaN must not read as agreement
      max_abs_difference_ = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
      max_difference_row_ = n_compared_;
    }
  }
  kls_.push_back(kl);
  if (kl > max_kl_ || std::isnan(kl)) {
    max_kl_ = std::isnan(kl) ? std::numeric_limits<double>::infinity() : kl;
    max_kl_row_ = n_compared_;
  }
  ++n_compared_;
}

double ScoreStats::perplexity() const {
  return n_predicted_ == 0 ? 0 : std::exp(sum_nll_ / static_cast<double>(n_predicted_));
}

double ScoreStats::top1_agreement() const {
  return n_compared_ == 0 ? 0 : static_cast<double>(n_agreeing_) / static_cast<double>(n_compared_);
}

double ScoreStats::mean_kl() const {
  return kls_.empty() ? 0 : std::accumulate(kls_.begin(), kls_.end(), 0.0) / static_cast<double>(kls_.size());
}

double ScoreStats::mean_kl_error() const {
  if (kls_.size() < 2) return 0;
  const double mean = mean_kl(), n = static_cast<double>(kls_.size());
  double squares = 0;
  for (const double kl : kls_) squares += (kl - mean) * (kl - mean);
  return std::sqrt(squares / (n - 1) / n);
}

double ScoreStats::median_kl() const { return median(kls_); }

std::string format_score(const ScoreStats& stats, std::string_view format) {
  if (format == "json") {
    nlohmann::ordered_json report = {{"tokens", stats.n_rows()}, {"perplexity", stats.perplexity()}};
    if (stats.has_reference()) {
      report["top1_agreement"] = stats.top1_agreement();
      report["mean_kl"] = stats.mean_kl();
      report["mean_kl_error"] = stats.mean_kl_error();
      report["median_kl"] = stats.median_kl();
      report["max_kl"] = stats.max_kl();
      report["max_kl_row"] = stats.max_kl_row();
      report["max_abs_difference"] = stats.max_abs_difference();
      report["max_difference_row"] = stats.max_difference_row();
    }
    return report.dump(2) + "\n";
  }
  std::string text = fmt::format("tokens {}\nperplexity {:.6g}\n", stats.n_rows(), stats.perplexity());
  if (stats.has_reference())
    text += fmt::format("top1_agreement {:.6f}\nmean_kl {:.6g}\nmean_kl_error {:.6g}\nmedian_kl {:.6g}\nmax_kl {:.6g}\nmax_kl_row {}\n"
                        "max_abs_difference {:.6g}\nmax_difference_row {}\n",
                        stats.top1_agreement(), stats.mean_kl(), stats.mean_kl_error(), stats.median_kl(), stats.max_kl(),
                        stats.max_kl_row(), stats.max_abs_difference(), stats.max_difference_row());
  return text;
}

}  // namespace sj
