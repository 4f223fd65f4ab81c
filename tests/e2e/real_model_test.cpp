// Real models, greedy: known text, and the same tokens on the CPU and on a GPU.
#include <gtest/gtest.h>

#include "tests/e2e/binary.h"

namespace sj::test {
namespace {

class RealModel : public testing::TestWithParam<const char*> {
 protected:
  static std::string greedy_text(const std::string& model, const std::string& prompt, std::vector<std::string> flags) {
    std::vector<std::string> args = {"run", "-m", model, "-p", prompt, "-n", "32", "--temp", "0"};
    args.insert(args.end(), flags.begin(), flags.end());
    const Outcome outcome = run_sparkjit(args);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  }
};

TEST_P(RealModel, KnowsTheCapitalOfFrance) {
  const std::string model = find_test_model(GetParam());
  if (model.empty()) GTEST_SKIP() << GetParam() << " not found; set SPARKJIT_TEST_MODELS";
  EXPECT_NE(greedy_text(model, "The capital of France is", {"--device", "cpu"}).find("Paris"), std::string::npos);
}

TEST_P(RealModel, WritesTheSameOnCpuAndGpu) {
  const std::string model = find_test_model(GetParam());
  if (model.empty()) GTEST_SKIP() << GetParam() << " not found; set SPARKJIT_TEST_MODELS";
  if (!has_gpu()) GTEST_SKIP() << "no GPU";
  for (const char* prompt : {"The capital of France is", "def fibonacci(n):", "Once upon a time", "1, 2, 3, 4,"}) {
    EXPECT_EQ(greedy_text(model, prompt, {"--device", "cuda", "--f32"}), greedy_text(model, prompt, {"--device", "cpu"})) << prompt;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, RealModel, testing::Values("SmolLM2.gguf", "gemma3-270m.gguf"),
                         [](const auto& info) { return std::string(info.param).substr(0, std::string(info.param).find_first_of(".-")); });

}  // namespace
}  // namespace sj::test
