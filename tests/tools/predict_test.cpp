// The prediction gives back what it was calibrated with, stays between its bounds on other cards, and names what it lacks.
#include "tools/predict.h"

#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/session_steps.h"

namespace sj::predict_test {
namespace {

Prediction predict(const std::string& shape, const DeviceInfo& device, uint32_t depth_tokens) {
  const ModelDesc model = describe_model(synthetic_gguf(load_shape(shape), {}));
  const std::vector<Lowered> steps = lower_steps(model, device, {.max_ctx_tokens = depth_tokens + 1});
  return predict_decode(decode_step(steps, depth_tokens), depth_tokens, device);
}

TEST(PredictDecode, GivesBackTheMeasuredStep) {
  const DeviceInfo h200 = require_device_profile("h200");
  for (const auto& [depth, tokens_per_s] : {std::pair{128u, 1120.1}, {512u, 1074.0}, {4096u, 926.7}, {16384u, 713.2}}) {
    const Prediction p = predict("qwen3-30b-a3b", h200, depth);
    // The measured steps were 64 tokens deeper on average: 6.3 MB of keys and values, 1.4 us; launches may differ a little.
    EXPECT_NEAR(1e6 / p.slow_us / tokens_per_s, 1, 0.03) << depth;
    EXPECT_NEAR(1e6 / p.fast_us / tokens_per_s, 1, 0.03) << depth;
  }
}

TEST(PredictDecode, LiesBetweenBytesAloneAndNothingHidden) {
  for (const char* shape : {"qwen3-30b-a3b", "qwen3-8b"})
    for (const char* card : {"rtx5090", "rtxpro6000", "gb10"}) {
      const Prediction p = predict(shape, require_device_profile(card), 4096);
      EXPECT_LT(p.late_bytes, p.bytes);
      EXPECT_GE(p.fast_us, p.bytes_us);
      EXPECT_GE(p.slow_us, p.fast_us) << shape << " on " << card;
      EXPECT_GT(p.edges_us, p.bytes_us);
    }
}

// Late are the keys and values, 98,304 bytes a token, and 8 experts of 22.9 MB a layer.
TEST(PredictDecode, LateBytesAreExpertsKeysAndValues) {
  const Prediction p = predict("qwen3-30b-a3b", require_device_profile("rtx5090"), 4096);
  EXPECT_NEAR(p.late_bytes, 98304.0 * 4097 + (339.74 + 339.74 + 417.60) * 1e6, 0.02 * p.late_bytes);
  const Prediction dense = predict("qwen3-8b", require_device_profile("rtx5090"), 4096);
  EXPECT_NEAR(dense.late_bytes, 36 * 2 * 8 * 128 * 2 * 4097.0, 0.02 * dense.late_bytes);
}

TEST(PredictDecode, NeedsABandwidth) {
  DeviceInfo device = require_device_profile("rtx5090");
  device.bandwidth_gb_per_s = 0;
  try {
    predict("smollm2-135m", device, 128);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_EQ(error.message(), "NVIDIA GeForce RTX 5090: no prediction: its memory bandwidth is unknown");
  }
}

TEST(FormatPredictions, SaysThatItIsOne) {
  const DeviceInfo device = require_device_profile("rtx5090");
  const Prediction p{.depth_tokens = 128, .bytes = 2e9, .late_bytes = 1e9, .n_launches = 292, .bytes_us = 1000, .edges_us = 1250,
                     .slow_us = 2000, .fast_us = 1600};
  const std::string text = format_predictions(device, {&p, 1});
  EXPECT_TRUE(text.starts_with("prediction, not a measurement: NVIDIA GeForce RTX 5090, 1792 GB/s\n")) << text;
  EXPECT_NE(text.find("| 128 | 2000.0 | 1000.0 | 292 | 1000 | 800 | 500 .. 625 |\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace sj::predict_test
