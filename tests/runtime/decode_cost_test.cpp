// What a decode step of Qwen3-30B-A3B reads, as the launches' costs say, against the sum over the file's tensors; and how many
// launches it takes. Kernels for the measuring card and for the smallest and largest shared memory that are served.
#include <gtest/gtest.h>

#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/session_steps.h"

namespace sj::decode_cost_test {
namespace {

constexpr uint32_t kLayers = 48, kExperts = 128, kUsedExperts = 8;
constexpr double kKvBytesPerToken = kLayers * 2 * 4 * 128 * 2;   // K and V of 4 heads of 128 halves

/// Bytes of the file's tensors that one token needs: all of them, but one row of the embedding and 8 of 128 experts.
double weight_bytes_per_token(const GgufFile& file) {
  double sum = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    const double bytes = static_cast<double>(tensor.n_bytes);
    if (tensor.name == "token_embd.weight") sum += bytes / static_cast<double>(tensor.n_rows());
    else if (tensor.name.find("_exps.") != std::string::npos) sum += bytes * kUsedExperts / kExperts;
    else sum += bytes;
  }
  return sum;
}

class DecodeCost : public testing::TestWithParam<const char*> {
 protected:
  GgufFile file_ = synthetic_gguf(load_shape("qwen3-30b-a3b"), {});
  std::vector<Lowered> steps_ = lower_steps(describe_model(file_), require_device_profile(GetParam()), {.max_ctx_tokens = 16512});
};

TEST_P(DecodeCost, IsThatOfTheFilesTensorsWithinTwoPercent) {
  const double weights = weight_bytes_per_token(file_);
  EXPECT_NEAR(weights, 1919.6e6, 0.1e6);   // the published byte model of this file
  for (const uint32_t n_past : {128u, 512u, 4096u, 16384u}) {
    const double expected = weights + kKvBytesPerToken * (n_past + 1);   // the token's own key and value are written
    EXPECT_NEAR(decode_step(steps_, n_past).cost(n_past + 1).bytes / expected, 1, 0.02) << "after " << n_past << " tokens";
  }
}

TEST_P(DecodeCost, TakesFewLaunches) {
  for (const uint32_t n_past : {128u, 512u, 4096u, 16384u}) EXPECT_LE(decode_step(steps_, n_past).launches.size(), 350u);
}

TEST_P(DecodeCost, TheStepIsTheFirstThatReachesThePosition) {
  for (const uint32_t n_past : {0u, 255u, 256u, 16511u}) {
    const Lowered& step = decode_step(steps_, n_past);
    EXPECT_EQ(step.n_tokens, 1u);
    EXPECT_TRUE(step.attend_tokens == 0 || n_past < step.attend_tokens);
    if (&step != &steps_.front()) {
      EXPECT_GE(n_past, (&step - 1)->attend_tokens);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cards, DecodeCost, testing::Values("h200", "rtx5090", "gb10"));

}  // namespace
}  // namespace sj::decode_cost_test
