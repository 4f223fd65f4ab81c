#include "tools/bench_report.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace sj::bench_report_test {
namespace {

BenchSetting card() {
  return {.model = "tiny", .architecture = "llama", .device = "a \"card\"", .weight_bytes = 1'500'000'000, .peak_gb_per_s = 1000};
}

TEST(Median, TakesTheMiddle) {
  EXPECT_EQ(median(std::vector<double>{}), 0);
  EXPECT_EQ(median(std::vector<double>{3, 1, 2}), 2);
  EXPECT_EQ(median(std::vector<double>{4, 1, 2, 3}), 2.5);
}

TEST(FormatRows, ShowsRateSpreadAndBandwidth) {
  const std::vector<BenchRow> rows = {
      {.n_tokens = 128, .depth_tokens = 512, .tokens_per_s = {90, 100, 110}, .bytes_per_token = 5e9, .launches_per_token = 7},
      {.is_prefill = true, .n_tokens = 64, .tokens_per_s = {2000}}};
  BenchSetting setting = card();
  setting.fill = "random";
  EXPECT_EQ(format_rows(setting, rows, "md"),
            "| model | size GB | device | test | context | tok/s | min .. max | GB/s | % of peak | launches |\n"
            "| :--- | ---: | :--- | :--- | :--- | ---: | ---: | ---: | ---: | ---: |\n"
            "| tiny | 1.50 | a \"card\" | tg128 @ d512 | random | 100.00 | 90.00 .. 110.00 | 500.0 | 50.0 | 7 |\n"
            "| tiny | 1.50 | a \"card\" | pp64 | - | 2000.00 | 2000.00 .. 2000.00 | - | - | - |\n");
}

TEST(FormatRows, JsonKeepsEverySample) {
  const std::vector<BenchRow> rows = {{.n_tokens = 8, .tokens_per_s = {90, 110}, .bytes_per_token = 1e9}};
  const auto list = nlohmann::json::parse(format_rows(card(), rows, "json"));
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0]["samples"], (std::vector<double>{90, 110}));
  EXPECT_EQ(list[0]["tokens_per_s"], 100);
  EXPECT_EQ(list[0]["context"], "prefill");
  EXPECT_EQ(list[0]["percent_of_peak"], 10);
}

TEST(FormatRows, CsvQuotesText) {
  const std::vector<BenchRow> rows = {{.n_tokens = 8, .tokens_per_s = {50}}};
  const std::string text = format_rows(card(), rows, "csv");
  EXPECT_EQ(text.substr(0, text.find(',')), "model");
  EXPECT_NE(text.find("\n\"tiny\",\"llama\",\"a \"\"card\"\"\","), std::string::npos) << text;
}

TEST(FormatOpTable, AddsUpToTheStep) {
  const std::vector<OpTiming> ops = {{"gemv", 0, 10, {.bytes = 5e6}}, {"norm", 0, 1, {.bytes = 1e3}}, {"gemv", 1, 20, {.bytes = 5e6}}};
  EXPECT_EQ(format_op_table(card(), ops, 40, false),
            "| launch | count | us | MB | GB/s | % of peak | % of step |\n"
            "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
            "| gemv | 2 | 30.00 | 10.000 | 333.3 | 33.3 | 75.0 |\n"
            "| norm | 1 | 1.00 | 0.001 | 1.0 | 0.1 | 2.5 |\n"
            "| gaps (negative: launches overlap) | - | 9.00 | - | - | - | 22.5 |\n"
            "| step | 3 | 40.00 | 10.001 | 250.0 | 25.0 | 100.0 |\n");
}

// 30 us of gemv, 1 of norm, 0.5 + 1.5 of gaps: 33 of the 40 us lie in the traced step, the rest between steps; 0.2 us without a launch.
std::vector<OpTiming> traced_ops() {
  return {{"gemv", 0, 12, {.bytes = 5e6}, LaunchSlice{0, 10, 0.25}},
          {"norm", 0, 3, {.bytes = 1e3}, LaunchSlice{0.5, 1, 2, 0.2}},
          {"gemv", 1, 22, {.bytes = 5e6}, LaunchSlice{1.5, 20, 0.5}}};
}

TEST(FormatOpTable, TracedStepHasGapsOfItsOwnAndAddsUp) {
  const std::string text = format_op_table(card(), traced_ops(), 40, false);
  EXPECT_TRUE(text.starts_with(
      "| launch | count | us in step | gap before | early | us alone | MB | GB/s | % of peak | % of step |\n"
      "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
      "| gemv | 2 | 30.00 | 1.50 | 0.75 | 34.00 | 10.000 | 333.3 | 33.3 | 75.0 |\n"
      "| norm | 1 | 1.00 | 0.50 | 2.00 | 3.00 | 0.001 | 1.0 | 0.1 | 2.5 |\n"
      "| gaps between launches | - | 2.00 | - | - | - | - | - | - | 5.0 |\n"
      "| between steps (negative: slower with the clock's stamps) | - | 7.00 | - | - | - | - | - | - | 17.5 |\n"
      "| step | 3 | 40.00 | - | - | 37.00 | 10.001 | 250.0 | 25.0 | 100.0 |\n"
      "\nidle 18.0 % of the step, with no launch on the card; gaps 5.0 %")) << text;
}

TEST(FormatOpTable, OneUntracedLaunchMakesTheStepUntraced) {
  std::vector<OpTiming> ops = traced_ops();
  ops[1].in_step.reset();
  EXPECT_TRUE(format_op_table(card(), ops, 40, false).starts_with("| launch | count | us | MB |"));
}

TEST(FormatRows, JsonHoldsTheLaunches) {
  std::vector<BenchRow> rows = {{.n_tokens = 8, .tokens_per_s = {25000}, .ops = traced_ops()}};
  const auto report = nlohmann::json::parse(format_rows(card(), rows, "json"))[0]["per_op"];
  EXPECT_EQ(report["step_us"], 40);
  EXPECT_EQ(report["traced_step_us"], 33);
  EXPECT_EQ(report["gaps_us"], 2);
  EXPECT_EQ(report["gaps_percent"], 5);
  EXPECT_DOUBLE_EQ(report["idle_percent"].get<double>(), 18);
  ASSERT_EQ(report["ops"].size(), 2u);
  EXPECT_EQ(report["ops"][0]["launch"], "gemv");
  EXPECT_EQ(report["ops"][0]["us_in_step"], 30);
  EXPECT_EQ(report["ops"][0]["percent_of_step"], 75);
  rows[0].ops.clear();
  EXPECT_FALSE(nlohmann::json::parse(format_rows(card(), rows, "json"))[0].contains("per_op"));
}

TEST(FormatOpTable, KeepsLaunchesApartWhenDetailed) {
  const std::vector<OpTiming> ops = {{"gemv", 0, 10, {}}, {"gemv", 1, 20, {}}};
  const std::string text = format_op_table(card(), ops, 0, true);
  EXPECT_NE(text.find("| gemv | 0 | 10.00 | - | - | - | - |\n| gemv | 1 | 20.00 |"), std::string::npos) << text;
}

}  // namespace
}  // namespace sj::bench_report_test
