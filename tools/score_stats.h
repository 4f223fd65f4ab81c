// How well logits predict a text and how far they are from reference logits. In: logits, token by token. Out: figures.
// Called by score.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace sj {

/// ln sum_i exp(x[i]), in double. Throws kInternal for an empty row.
double log_sum_exp(std::span<const float> logits);

/// Sums over the rows of one text. Perplexity is exp of the mean of -ln p(next token); the last row predicts nothing.
class ScoreStats {
 public:
  /// `next` is the token that follows in the text, or -1 for the last row.
  void add(std::span<const float> logits, TokenId next);
  /// Compares a row with the reference's: top-1, KL(reference || ours), max |a - b|. Sizes must agree.
  void compare(std::span<const float> logits, std::span<const float> reference);

  uint64_t n_rows() const { return n_rows_; }
  double perplexity() const;          ///< 0 when nothing was predicted
  bool has_reference() const { return n_compared_ > 0; }
  double top1_agreement() const;      ///< part of the compared rows, 0..1
  double mean_kl() const;             ///< nats
  double mean_kl_error() const;       ///< standard error of that mean, the rows taken for independent
  double median_kl() const;           ///< where a few rows decide the mean, as when an expert is picked otherwise, this says the rest
  double max_kl() const { return max_kl_; }
  uint64_t max_kl_row() const { return max_kl_row_; }
  double max_abs_difference() const { return max_abs_difference_; }
  uint64_t max_difference_row() const { return max_difference_row_; }

 private:
  uint64_t n_rows_ = 0, n_predicted_ = 0, n_compared_ = 0, n_agreeing_ = 0, max_difference_row_ = 0, max_kl_row_ = 0;
  std::vector<double> kls_;   ///< one a compared row
  double sum_nll_ = 0, max_kl_ = 0, max_abs_difference_ = 0;
};

/// `format` is text ("name value" lines) or json.
std::string format_score(const ScoreStats& stats, std::string_view format);

}  // namespace sj
