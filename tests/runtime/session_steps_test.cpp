// What is compiled ahead of time is all that a session can ask for: any context, any card, with and without all logits.
#include "runtime/session_steps.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "models/synth.h"
#include "runtime/planner.h"
#include "small_models.h"

namespace sj::session_steps_test {
namespace {

std::string text_of(const KernelSpec& spec) { return spec.source + ' ' + spec.entry + '\n' + baked_header(spec); }

std::set<std::string> kernels_of(const std::vector<Lowered>& steps) {
  std::set<std::string> kernels;
  for (const KernelSpec& spec : collect_kernels(steps).specs) kernels.insert(text_of(spec));
  return kernels;
}

ModelDesc shape_model(const std::string& name, uint32_t n_layers) {
  return describe_model(synthetic_gguf(load_shape(name), {.path = {}, .n_layers = n_layers}));
}

/// `options` of a session, and of prewarm for any session: they differ in the context and in whether all logits are expected.
void expect_all_known(const ModelDesc& model, const std::string& device_name, SessionOptions options, std::mt19937& random) {
  const DeviceInfo device = require_device_profile(device_name);
  const std::set<std::string> known = kernels_of(lower_all_steps(model, device, options));
  std::vector<uint32_t> contexts = {0, 1, 64, 65, 257, 5120, 5121, 1 << 24};
  for (int i = 0; i < 4; ++i) contexts.push_back(1u << std::uniform_int_distribution(0, 23)(random) | (random() & 1023));
  for (uint32_t context : contexts)
    for (bool all_logits : {false, true}) {
      options.max_ctx_tokens = context;
      options.expect_all_logits = all_logits;
      for (const std::string& kernel : kernels_of(lower_steps(model, device, options)))
        ASSERT_TRUE(known.contains(kernel)) << model.name << " on " << device_name << ", context " << context << ", all logits "
                                            << all_logits << ": not among the prepared kernels:\n" << kernel;
    }
}

TEST(SessionSteps, EverySessionsKernelsAreAmongThoseOfAllSteps) {
  std::mt19937 random(7);
  const std::vector<ModelDesc> models = {shape_model("qwen3-30b-a3b", 3), shape_model("smollm2-135m", 3),
                                         test::small_model({.has_qk_norm = true, .has_post_norm = true, .softcap = 30})};
  for (const ModelDesc& model : models)
    for (const std::string& device : device_profile_names()) expect_all_known(model, device, {}, random);
  expect_all_known(models[0], "gb10", {.prefill_tokens = 48}, random);
  expect_all_known(models[0], "rtx5090", {.prefill_tokens = 1}, random);
  expect_all_known(models[1], "h200", {.activations = ActivationMode::kF32}, random);
}

TEST(SessionSteps, AttendSizesAreFewAndLargeEnough) {
  std::set<uint32_t> sizes;
  for (uint32_t n_tokens = 1; n_tokens <= 1u << 24; n_tokens += 1 + n_tokens / 100) {
    EXPECT_GE(attend_size(n_tokens), n_tokens);
    sizes.insert(attend_size(n_tokens));
  }
  EXPECT_LE(sizes.size(), 9u);
  EXPECT_EQ(attend_size(192), 192u);
  EXPECT_EQ(attend_size(193), 1024u);
}

TEST(SessionSteps, BatchedStepOfAShortContextIsSmall) {
  const ModelDesc model = test::small_model();
  const DeviceInfo device = test::small_device();
  const auto batch = [&](uint32_t context, bool all_logits, uint32_t prefill_tokens = 512) {
    SessionOptions options{.max_ctx_tokens = context, .prefill_tokens = prefill_tokens};
    options.expect_all_logits = all_logits;
    return lower_steps(model, device, options).back();
  };
  EXPECT_EQ(batch(64, false).n_tokens, 64u);
  EXPECT_EQ(batch(65, false).n_tokens, 512u);
  EXPECT_EQ(batch(4096, true).n_tokens, 64u);
  EXPECT_TRUE(batch(4096, true).all_logits);
  EXPECT_EQ(batch(4096, true, 16).n_tokens, 16u);
  EXPECT_EQ(batch(4096, false, 1).n_tokens, 1u);
}

}  // namespace
}  // namespace sj::session_steps_test
