// Sessions whose decode steps are fused, on the software GPU: logits against the CPU backend in float64, and against themselves.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "quantised_models.h"
#include "runtime/session.h"

namespace sj::fused_session_test {
namespace {

using test::TinyModel;

const std::vector<TokenId> kTokens = {17, 5, 120, 3, 77, 42};

std::unique_ptr<Session> open(const std::string& path, const std::string& device, ActivationMode activations, const std::string& kv_type = {}) {
  SessionOptions o;
  o.kv_type = kv_type;
  o.model_path = path;
  o.device = device;
  o.max_ctx_tokens = 256;   // four pages: attention's splits meet through memory
  o.prefill_tokens = 1;
  o.activations = activations;
  o.cpu_double = true;
  o.show_progress = false;
  // Kernels compile slowly here; the tests of one run share them.
  o.cache_dir = (std::filesystem::temp_directory_path() / "sparkjit-fused-session-test-cache").string();
  o.libcuda_path = SPARKJIT_SOFTGPU_LIB "/libcuda.so.1";
  o.libnvrtc_path = SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13";
  return open_session(o);
}

/// [tokens][n_vocab], every token fed by itself.
std::vector<std::vector<float>> logits_of(Session& session) {
  std::vector<std::vector<float>> all;
  for (const TokenId id : kTokens) all.push_back(session.feed({&id, 1}, false));
  return all;
}

double root_mean_square(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += double(v) * v;
  return std::sqrt(sum / double(x.size()));
}

class FusedSessionTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { path_ = write_quantised(dir_, GetParam() == "moe" ? test::moe_model() : test::dense_model()); }
  const test::TempDir dir_;
  std::string path_;
};

TEST_P(FusedSessionTest, LogitsStayWithinTheNoiseOfInt8Activations) {
  const std::unique_ptr<Session> gpu = open(path_, "cuda", ActivationMode::kAuto), cpu = open(path_, "cpu", ActivationMode::kF32);
  const std::vector<std::vector<float>> got = logits_of(*gpu), want = logits_of(*cpu);
  EXPECT_EQ(gpu->launches_per_token(), 2u * 5 + 3);
  for (size_t t = 0; t < kTokens.size(); ++t) {
    ASSERT_EQ(got[t].size(), want[t].size());
    std::vector<float> difference(got[t].size());
    for (size_t i = 0; i < got[t].size(); ++i) difference[i] = got[t][i] - want[t][i];
    // A group of 16 normal values has a largest of about 1.9 deviations, so a step is 1.9 / 127 and its error's deviation
    // 1 / sqrt(12) of it: 0.43 % of the input's. A product of n columns has the same relative noise. Nine stages in a row, and
    // gate * up counting twice, give sqrt(9 + 2) * 0.43 % = 1.4 %; residual sums dilute and normalisation of correlated
    // inputs concentrates it, so twice that is allowed.
    EXPECT_LT(root_mean_square(difference), 0.03 * root_mean_square(want[t])) << "token " << t;
    EXPECT_GT(root_mean_square(difference), 1e-5 * root_mean_square(want[t])) << "int8 activations were not used";
  }
}

/// Both backends round keys and values alike, so only the int8 activations stand between them, whose noise moves a few quants.
TEST_P(FusedSessionTest, Q8CacheAgreesWithTheCpus) {
  const std::unique_ptr<Session> gpu = open(path_, "cuda", ActivationMode::kAuto, "q8_0"), cpu = open(path_, "cpu", ActivationMode::kAuto, "q8_0");
  const std::unique_ptr<Session> halves = open(path_, "cuda", ActivationMode::kAuto);
  const std::vector<std::vector<float>> got = logits_of(*gpu), want = logits_of(*cpu), without = logits_of(*halves);
  EXPECT_EQ(gpu->launches_per_token(), halves->launches_per_token()) << "as fused as with halves";
  for (size_t t = 0; t < kTokens.size(); ++t) {
    std::vector<float> difference(got[t].size());
    for (size_t i = 0; i < got[t].size(); ++i) difference[i] = got[t][i] - want[t][i];
    EXPECT_LT(root_mean_square(difference), 0.03 * root_mean_square(want[t])) << "token " << t;
    EXPECT_NE(got[t], without[t]) << "the cache holds halves";
  }
  EXPECT_LT(gpu->decode_cost(200).bytes, halves->decode_cost(200).bytes);
}

TEST_P(FusedSessionTest, Float32StepsMatchTheCpu) {
  const std::unique_ptr<Session> gpu = open(path_, "cuda", ActivationMode::kF32), cpu = open(path_, "cpu", ActivationMode::kF32);
  const std::vector<std::vector<float>> got = logits_of(*gpu), want = logits_of(*cpu);
  for (size_t t = 0; t < kTokens.size(); ++t)
    for (size_t i = 0; i < want[t].size(); ++i) ASSERT_NEAR(got[t][i], want[t][i], 5e-3) << "token " << t << ", id " << i;
}

TEST_P(FusedSessionTest, RepeatsBitForBit) {
  const std::unique_ptr<Session> session = open(path_, "cuda", ActivationMode::kAuto);
  const std::vector<std::vector<float>> first = logits_of(*session);
  session->reset();
  EXPECT_EQ(logits_of(*session), first);
  EXPECT_EQ(logits_of(*open(path_, "cuda", ActivationMode::kAuto)), first);
}

INSTANTIATE_TEST_SUITE_P(Models, FusedSessionTest, testing::Values("moe", "dense"), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sj::fused_session_test
