// A decode step in the true shapes of Qwen3-30B-A3B (two layers, random weights, whole vocabulary): the software GPU against the
// CPU backend in float64.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>

#include "tests/e2e/binary.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::true_shape_test {
namespace {

constexpr uint64_t kNeededBytes = 2ull << 30;   // the model is 1.2 GB

class TrueShape : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (std::filesystem::space(std::filesystem::temp_directory_path()).available < kNeededBytes) return;
    folder_ = std::make_unique<TempDir>();
    model_ = (folder_->path() / "model.gguf").string();
    const Outcome synth = run_sparkjit({"synth", "--shape", "qwen3-30b-a3b", "--layers", "2", "-o", model_});
    ASSERT_EQ(synth.exit_code, 0) << synth.err;
    const int32_t tokens[] = {17, 5000, 99};
    tokens_ = folder_->write("tokens.i32", std::string(reinterpret_cast<const char*>(tokens), sizeof tokens));
    ASSERT_EQ(score({"--f64", "--logits-out", reference()}).exit_code, 0);
  }
  static void TearDownTestSuite() { folder_.reset(); }
  void SetUp() override {
    if (!folder_) GTEST_SKIP() << "less than " << (kNeededBytes >> 30) << " GB free for a temporary model";
  }

  static std::string reference() { return (folder_->path() / "reference.f32").string(); }
  /// Every token fed by itself: decode steps only.
  static Outcome score(std::vector<std::string> flags) {
    std::vector<std::string> args = {"score", "-m", model_, "--tokens", tokens_, "-c", "64", "--chunks", "1", "--output", "json"};
    args.insert(args.end(), flags.begin(), flags.end());
    return run_sparkjit(args);
  }
  static nlohmann::json score_on_gpu(std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--reference", reference(), "--device", "cuda", "--libcuda", SPARKJIT_SOFTGPU_LIB "/libcuda.so.1", "--libnvrtc",
                               SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13"});
    const Outcome outcome = score(flags);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.exit_code == 0 ? nlohmann::json::parse(outcome.out) : nlohmann::json();
  }

  static std::unique_ptr<TempDir> folder_;
  static std::string model_, tokens_;
};
std::unique_ptr<TempDir> TrueShape::folder_;
std::string TrueShape::model_, TrueShape::tokens_;

TEST_F(TrueShape, Float32StepAgreesWithFloat64) {
  const nlohmann::json report = score_on_gpu({"--f32"});
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report["tokens"], 3);
  EXPECT_EQ(report["top1_agreement"], 1);
  // Sums of at most 4096 float32 products, in about ten stages after another, on logits of deviation 4: the rounding of a sum
  // grows with the root of its length, 64 * 6e-8 * 4 * sqrt(10) = 5e-5.
  EXPECT_LT(report["max_abs_difference"].get<double>(), 5e-5) << "at row " << report["max_difference_row"];
}

TEST_F(TrueShape, FusedStepKeepsTheDistribution) {
  const nlohmann::json report = score_on_gpu({});
  ASSERT_TRUE(report.is_object());
  // Activations in int8 cost 1.4 % of the logits' deviation (fused_session_test): a difference of deviation 0.06, whose half square
  // is the divergence to expect, 2e-3. Ten times that is no longer rounding.
  EXPECT_LT(report["max_kl"].get<double>(), 2e-2);
  EXPECT_GT(report["max_kl"].get<double>(), 1e-9) << "int8 activations were not used";
}

}  // namespace
}  // namespace sj::test::true_shape_test
