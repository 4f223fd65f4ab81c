#include "tools/score_stats.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "jit/base/error.h"

namespace sj::score_stats_test {
namespace {

using Row = std::vector<float>;

TEST(LogSumExp, DoesNotOverflow) {
  EXPECT_NEAR(log_sum_exp(Row{1000, 1000}), 1000 + std::log(2.0), 1e-12);
  EXPECT_NEAR(log_sum_exp(Row{-1000, -1000}), -1000 + std::log(2.0), 1e-12);
}

TEST(ScoreStats, PerplexityOfEqualLogitsIsTheVocabularySize) {
  ScoreStats stats;
  stats.add(Row{0.5f, 0.5f, 0.5f, 0.5f}, 2);
  stats.add(Row{-7, -7, -7, -7}, -1);   // predicts nothing
  EXPECT_NEAR(stats.perplexity(), 4, 1e-12);
  EXPECT_EQ(stats.n_rows(), 2u);
}

TEST(ScoreStats, PerplexityIsTheGeometricMeanOfInverseProbabilities) {
  ScoreStats stats;
  const float ln3 = std::log(3.0f);
  stats.add(Row{ln3, 0}, 0);   // p = 3/4
  stats.add(Row{ln3, 0}, 1);   // p = 1/4
  EXPECT_NEAR(stats.perplexity(), std::sqrt(16.0 / 3), 1e-6);
}

TEST(ScoreStats, EqualRowsAgree) {
  ScoreStats stats;
  stats.compare(Row{1, 2, 3}, Row{1, 2, 3});
  EXPECT_EQ(stats.top1_agreement(), 1);
  EXPECT_NEAR(stats.mean_kl(), 0, 1e-15);
  EXPECT_EQ(stats.max_abs_difference(), 0);
}

TEST(ScoreStats, KlIsOfTheReferenceFromOurs) {
  ScoreStats stats;
  const float ln3 = std::log(3.0f);
  stats.compare(Row{0, 0}, Row{ln3, 0});   // reference 3/4, 1/4; ours 1/2, 1/2
  EXPECT_NEAR(stats.mean_kl(), 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-7);
}

TEST(ScoreStats, NamesTheRowOfTheLargestKl) {
  ScoreStats stats;
  const float ln3 = std::log(3.0f);
  stats.compare(Row{0, 0}, Row{0, 0});
  stats.compare(Row{0, 0}, Row{ln3, 0});
  stats.compare(Row{0.5f, 0}, Row{ln3, 0});
  EXPECT_NEAR(stats.max_kl(), 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-7);
  EXPECT_EQ(stats.max_kl_row(), 1u);
  // Three values 0, b, c: the mean's standard error is that of their sample deviation over sqrt(3).
  const double b = stats.max_kl(), c = stats.median_kl(), mean = (b + c) / 3;
  EXPECT_GT(b, c);
  EXPECT_GT(c, 0);
  EXPECT_NEAR(stats.mean_kl(), mean, 1e-12);
  EXPECT_NEAR(stats.mean_kl_error(), std::sqrt((mean * mean + (b - mean) * (b - mean) + (c - mean) * (c - mean)) / 6), 1e-12);
  stats.compare(Row{std::numeric_limits<float>::quiet_NaN(), 0}, Row{1, 0});
  EXPECT_TRUE(std::isinf(stats.max_kl()));
}

TEST(ScoreStats, FindsTheRowThatIsFarthestOff) {
  ScoreStats stats;
  stats.compare(Row{1, 2}, Row{1, 2.25f});
  stats.compare(Row{3, 2}, Row{1, 2});
  stats.compare(Row{1, 2}, Row{1, 2});
  EXPECT_EQ(stats.max_abs_difference(), 2);
  EXPECT_EQ(stats.max_difference_row(), 1u);
  EXPECT_NEAR(stats.top1_agreement(), 2.0 / 3, 1e-12);
}

TEST(ScoreStats, NanIsNeverAgreement) {
  ScoreStats stats;
  stats.compare(Row{std::numeric_limits<float>::quiet_NaN(), 2}, Row{1, 2});
  EXPECT_TRUE(std::isinf(stats.max_abs_difference()));
}

TEST(ScoreStats, RefusesRowsOfOtherSizes) {
  ScoreStats stats;
  try {
    stats.compare(Row{1}, Row{1, 2});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.message(), "score: 1 logits against 2 in the reference");
    EXPECT_EQ(error.exit_code(), 70);
  }
}

TEST(FormatScore, LeavesOutWhatWasNotCompared) {
  ScoreStats stats;
  stats.add(Row{0, 0}, 1);
  EXPECT_EQ(format_score(stats, "text"), "tokens 1\nperplexity 2\n");
  stats.compare(Row{0, 0}, Row{0, 1});
  EXPECT_NE(format_score(stats, "text").find("\ntop1_agreement 0.000000\n"), std::string::npos);
  EXPECT_NE(format_score(stats, "json").find("\"max_abs_difference\": 1.0"), std::string::npos);
  EXPECT_NE(format_score(stats, "json").find("\"max_kl_row\": 0"), std::string::npos);
}

}  // namespace
}  // namespace sj::score_stats_test
