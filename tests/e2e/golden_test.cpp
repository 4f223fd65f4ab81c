// `score` on the golden files: every architecture, fed in many different splits, against logits of an independent program.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

#include "tests/e2e/binary.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::golden_test {
namespace {

constexpr size_t kTokens = 150;   // of a golden sequence

struct GoldenCase {
  std::string model, chunks;
  size_t n_tokens = kTokens;   ///< of the sequence: the first ones
};

class GoldenScore : public testing::TestWithParam<GoldenCase> {
 protected:
  // The score of the golden sequence, or null (with the test skipped) when the files are not here.
  nlohmann::json score(std::vector<std::string> flags) {
    const std::string base = goldens_dir() + "/" + GetParam().model;
    std::vector<std::string> args = {"score", "-m", base + ".gguf", "--tokens", beginning(base + ".tokens.i32"),
                                     "--reference", beginning(base + ".logits.f32"), "--chunks", GetParam().chunks, "--output", "json"};
    args.insert(args.end(), flags.begin(), flags.end());
    const Outcome outcome = run_sparkjit(args);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.exit_code == 0 ? nlohmann::json::parse(outcome.out) : nlohmann::json();
  }
  /// The file, or a copy of the rows of the case's tokens.
  std::string beginning(const std::string& path) {
    if (GetParam().n_tokens == kTokens) return path;
    std::ifstream in(path, std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(in), {});
    bytes.resize(bytes.size() / kTokens * GetParam().n_tokens);
    return folder_.write(std::filesystem::path(path).filename(), bytes);
  }
  void expect_close(const nlohmann::json& report, double max_abs_difference) {
    ASSERT_TRUE(report.is_object());
    EXPECT_EQ(report["tokens"], GetParam().n_tokens);
    EXPECT_LT(report["max_abs_difference"].get<double>(), max_abs_difference) << "at row " << report["max_difference_row"];
    EXPECT_EQ(report["top1_agreement"], 1);
  }

 private:
  TempDir folder_;
};

// The bounds are those the project promises for these files: float32 sums in another order, over a few layers.
TEST_P(GoldenScore, HoldsOnTheCpu) {
  if (goldens_dir().empty()) GTEST_SKIP() << "no golden files; set SPARKJIT_GOLDENS";
  expect_close(score({"--device", "cpu", "--f32"}), 1e-3);
}

TEST_P(GoldenScore, HoldsOnTheGpuInFloat32) {
  if (goldens_dir().empty()) GTEST_SKIP() << "no golden files; set SPARKJIT_GOLDENS";
  if (!has_gpu()) GTEST_SKIP() << "no GPU";
  expect_close(score({"--device", "cuda", "--f32"}), 5e-3);
}

std::vector<GoldenCase> all_cases() {
  std::vector<GoldenCase> cases;
  for (const char* model : {"llama", "qwen2", "qwen3", "qwen3moe"})
    for (const char* chunks : {"150", "1", "64,1,1,1,64,1", "7", "1,149"}) cases.push_back({model, chunks});
  for (const char* model : {"llama", "qwen2", "qwen3", "qwen3moe"}) cases.push_back({model, "33,1,1,5", 40});   // for slow devices
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Splits, GoldenScore, testing::ValuesIn(all_cases()), [](const auto& info) {
  std::string name = info.param.model + "_" + info.param.chunks;
  for (char& c : name) c = c == ',' ? '_' : c;
  return info.param.n_tokens == kTokens ? name : name + "_begin";
});

}  // namespace
}  // namespace sj::test::golden_test
