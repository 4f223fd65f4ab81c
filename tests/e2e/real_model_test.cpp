// Real models, greedy: known text, and the same tokens on the CPU and on a GPU.
#include <gtest/gtest.h>

#include <cctype>

#include "tests/e2e/binary.h"

namespace sj::test::real_model_test {
namespace {

struct Case {
  std::string file, prompt;
  int n_tokens;
};

class RealModel : public testing::TestWithParam<Case> {
 protected:
  std::string greedy_text(const std::vector<std::string>& flags) const {
    std::vector<std::string> args = {"run", "-m", find_test_model(GetParam().file), "-p", GetParam().prompt,
                                     "-n", std::to_string(GetParam().n_tokens), "--temp", "0"};
    args.insert(args.end(), flags.begin(), flags.end());
    const Outcome outcome = run_sparkjit(args);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  }
  void SetUp() override {
    if (find_test_model(GetParam().file).empty()) GTEST_SKIP() << GetParam().file << " not found; set SPARKJIT_TEST_MODELS";
  }
};

TEST_P(RealModel, WritesTheSameOnCpuAndGpu) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU";
  const std::string on_cpu = greedy_text({"--device", "cpu"});
  EXPECT_FALSE(on_cpu.empty());
  EXPECT_EQ(greedy_text({"--device", "cuda", "--f32"}), on_cpu);
}

std::vector<Case> all_cases() {
  // Short enough for the software GPU, and for a sanitized one.
  std::vector<Case> cases = {{"SmolLM2.gguf", "The capital of France is", 8}, {"SmolLM2.gguf", "The", 2}};
  for (const char* file : {"SmolLM2.gguf", "gemma3-270m.gguf"})
    for (const char* prompt : {"The capital of France is", "def fibonacci(n):", "Once upon a time", "1, 2, 3, 4,"})
      cases.push_back({file, prompt, 32});
  return cases;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.file.substr(0, info.param.file.find_first_of(".-")) + "_" + std::to_string(info.param.n_tokens) + "_";
  for (const char c : info.param.prompt)
    if (std::isalnum(static_cast<unsigned char>(c))) name += c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Files, RealModel, testing::ValuesIn(all_cases()), name_of);

struct KnownText {
  const char* file;
  const char* begin;   // what other runtimes write too
};
class RealModelText : public testing::TestWithParam<KnownText> {};

TEST_P(RealModelText, BeginsAsItDoesElsewhere) {
  const std::string model = find_test_model(GetParam().file);
  if (model.empty()) GTEST_SKIP() << GetParam().file << " not found; set SPARKJIT_TEST_MODELS";
  const Outcome outcome = run_sparkjit({"run", "-m", model, "-p", "The capital of France is", "-n", "32", "--temp", "0", "--device", "cpu"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with(GetParam().begin)) << outcome.out;
}

INSTANTIATE_TEST_SUITE_P(Files, RealModelText,
                         testing::Values(KnownText{"SmolLM2.gguf", " Paris."}, KnownText{"gemma3-270m.gguf", " the capital of the country of France. It is the largest city"}),
                         [](const auto& info) { return std::string(info.param.file).substr(0, std::string(info.param.file).find_first_of(".-")); });

}  // namespace
}  // namespace sj::test::real_model_test
