// Sessions on the CPU and, through the test doubles of libcuda and libnvrtc, on a software GPU: context errors, teacher
// forcing in any split, greedy and sampled generation. SPARKJIT_GOLDENS names the folder of the golden models.
#include "runtime/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "jit/base/error.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/opened_model.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/golden_models.h"

namespace sj::session_test {
namespace {

using test::goldens_dir;

std::string golden(const std::string& name) { return goldens_dir() + "/" + name; }

class SessionTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (goldens_dir().empty()) GTEST_SKIP() << "no golden models: set SPARKJIT_GOLDENS";
#ifndef SPARKJIT_SOFTGPU_LIB
    if (GetParam() != "cpu") GTEST_SKIP() << "built without the software GPU";
#endif
  }

  SessionOptions options(const std::string& model = "llama.gguf", uint32_t max_ctx_tokens = 128) const {
    SessionOptions o;
    o.model_path = golden(model);
    o.device = GetParam();
    o.max_ctx_tokens = max_ctx_tokens;
    o.prefill_tokens = 16;
    o.activations = ActivationMode::kF32;
    o.show_progress = false;
    // Kernels compile slowly here; the tests of one run share them.
    o.cache_dir = (std::filesystem::temp_directory_path() / "sparkjit-session-test-cache").string();
#ifdef SPARKJIT_SOFTGPU_LIB
    o.libcuda_path = SPARKJIT_SOFTGPU_LIB "/libcuda.so.1";
    o.libnvrtc_path = SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13";
#endif
    return o;
  }
  std::vector<TokenId> tokens(size_t n) const {
    std::vector<TokenId> ids = test::read_raw<TokenId>(golden("llama.tokens.i32"));
    ids.resize(n);
    return ids;
  }
};

template <class Body>
Error require_error(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorKind::kInternal, "none");
}

double max_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) worst = std::max(worst, std::fabs(double(a[i]) - b[i]));
  return worst;
}

std::vector<TokenId> generate(Session& session, std::span<const TokenId> prompt, const GenerateOptions& options) {
  std::vector<TokenId> out;
  session.generate(prompt, options, [&](TokenId id) { out.push_back(id); return true; });
  return out;
}

GenerateOptions greedy(uint32_t n) {
  GenerateOptions options{.max_new_tokens = n};
  options.sampler.temperature = 0;
  return options;
}

TEST_P(SessionTest, PromptLongerThanContextSaysBoth) {
  const std::unique_ptr<Session> session = open_session(options("llama.gguf", 16));
  const Error error = require_error([&] { session->feed(tokens(17), false); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_EQ(error.message(), "the prompt of 17 tokens does not fit the context: 0 of 16 tokens are taken; raise --ctx");
  session->feed(tokens(10), false);
  EXPECT_EQ(require_error([&] { session->feed(tokens(7), false); }).message(),
            "the prompt of 7 tokens does not fit the context: 10 of 16 tokens are taken; raise --ctx");
  EXPECT_EQ(session->n_past(), 10u) << "a refused prompt leaves no trace";
}

TEST_P(SessionTest, RefusesEmptyPromptAndForeignIds) {
  const std::unique_ptr<Session> session = open_session(options());
  EXPECT_EQ(require_error([&] { session->feed({}, false); }).kind(), ErrorKind::kUsage);
  const std::vector<TokenId> foreign = {1, 128};
  EXPECT_EQ(require_error([&] { session->feed(foreign, false); }).message(),
            "token 1 of the prompt: id 128 is outside of the vocabulary 0..127");
}

constexpr std::string_view kTinyShape = R"(name = "tiny"
architecture = "qwen3"
[hyperparameters]
block_count = 4
context_length = 128
embedding_length = 256
feed_forward_length = 512
attention.head_count = 4
attention.head_count_kv = 2
attention.key_length = 64
attention.value_length = 64
attention.layer_norm_rms_epsilon = 1e-6
[tokenizer]
pre = "qwen2"
n_vocab = 320
[mix]
token_embd = "Q4_K"
output = "Q6_K"
output_norm = "F32"
attn_norm = "F32"
attn_q = "Q4_K"
attn_k = "Q4_K"
attn_v = "Q6_K"
attn_output = "Q4_K"
attn_q_norm = "F32"
attn_k_norm = "F32"
ffn_norm = "F32"
ffn_gate = "Q4_K"
ffn_up = "Q4_K"
ffn_down = "Q6_K"
)";

TEST_P(SessionTest, WeightsMadeOnTheSpotAreThoseOfTheFile) {
  const ShapeFile shape = parse_shape(kTinyShape, "tiny");
  const SynthOptions synth{.path = ::testing::TempDir() + "sparkjit-tiny-shape.gguf", .n_layers = 1, .seed = 5};
  const SessionOptions with = options();
  if (GetParam() == "cpu") {
    const Error error = require_error([&] { open_shape_session(with, shape, synth); });
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    return;
  }
  write_synthetic_gguf(shape, synth);
  SessionOptions of_file = with;
  of_file.model_path = synth.path;
  const std::vector<TokenId> ids = {1, 200, 31, 7};
  const std::unique_ptr<Session> made = open_shape_session(with, shape, synth), read = open_session(of_file);
  std::filesystem::remove(synth.path);
  EXPECT_EQ(made->model().layers.size(), 1u);
  EXPECT_EQ(made->feed(ids, false), read->feed(ids, false));
}

// The software GPU has no clock that its kernels could read, so no launch is timed inside the step there; but the step has run with
// the kernels meant for it.
TEST_P(SessionTest, ProfilingLeavesTheContextAsItIs) {
  const std::unique_ptr<Session> session = open_session(options());
  const std::vector<TokenId> ids = tokens(9);
  session->feed(std::span(ids).first(8), false);
  const std::vector<OpTiming> timings = session->profile_decode(1);
  EXPECT_EQ(timings.size(), session->launches_per_token());
  for (const OpTiming& timing : timings) {
    EXPECT_FALSE(timing.in_step) << timing.label;
    EXPECT_GE(timing.median_us, 0);
    EXPECT_GT(timing.cost.bytes, 0) << timing.label;
  }
  EXPECT_EQ(session->n_past(), 8u);
  const std::vector<float> after = session->feed(std::span(ids).subspan(8), false);
  session->reset();
  session->feed(std::span(ids).first(8), false);
  EXPECT_EQ(after, session->feed(std::span(ids).subspan(8), false));
}

TEST_P(SessionTest, EverySplitGivesTheSameLogits) {
  const std::vector<TokenId> ids = tokens(40);
  SessionOptions all = options();
  all.expect_all_logits = true;
  const std::unique_ptr<Session> batched = open_session(all), plain = open_session(options());
  const std::vector<float> reference = batched->feed(ids, true);
  ASSERT_EQ(reference.size(), ids.size() * batched->model().n_vocab);
  const size_t n_vocab = plain->model().n_vocab;
  const std::span<const TokenId> rest(ids);
  // Batches, single tokens and all logits token by token; the bound is that of sums in another order, times large logits.
  EXPECT_LT(max_difference(plain->feed(rest.first(17), false), std::span(reference).subspan(16 * n_vocab, n_vocab)), 5e-3);
  EXPECT_LT(max_difference(plain->feed(rest.subspan(17, 1), false), std::span(reference).subspan(17 * n_vocab, n_vocab)), 5e-3);
  EXPECT_LT(max_difference(plain->feed(rest.subspan(18), true), std::span(reference).subspan(18 * n_vocab)), 5e-3);
  EXPECT_EQ(plain->n_past(), 40u);
}

TEST_P(SessionTest, GreedyTokensAreTheArgmaxOfFedLogits) {
  const std::unique_ptr<Session> session = open_session(options());
  const std::vector<TokenId> prompt = tokens(9);
  const std::vector<TokenId> generated = generate(*session, prompt, greedy(12));
  ASSERT_EQ(generated.size(), 12u);
  EXPECT_EQ(session->n_past(), 9u + 11u) << "the last token is not in the cache";
  session->reset();
  std::vector<float> logits = session->feed(prompt, false);
  for (size_t i = 0; i < generated.size(); ++i) {
    EXPECT_EQ(argmax(logits), generated[i]) << i;
    logits = session->feed({&generated[i], 1}, false);
  }
}

TEST_P(SessionTest, StoppingEarlyLeavesACacheThatGoesOn) {
  const std::unique_ptr<Session> session = open_session(options());
  const std::vector<TokenId> prompt = tokens(5);
  std::vector<TokenId> first;
  session->generate(prompt, greedy(20), [&](TokenId id) { first.push_back(id); return first.size() < 4; });
  ASSERT_EQ(first.size(), 4u);
  EXPECT_EQ(session->n_past(), 5u + 3u);
  const std::vector<TokenId> last = {first.back()};
  const std::vector<TokenId> second = generate(*session, last, greedy(4));
  session->reset();
  std::vector<TokenId> whole = generate(*session, prompt, greedy(8));
  first.insert(first.end(), second.begin(), second.end());
  EXPECT_EQ(first, whole);
}

TEST_P(SessionTest, GenerationEndsWhenTheContextIsFull) {
  const std::unique_ptr<Session> session = open_session(options("llama.gguf", 16));
  EXPECT_EQ(generate(*session, tokens(10), greedy(100)).size(), 7u) << "6 tokens that are fed and one that is not";
  EXPECT_EQ(session->n_past(), 16u);
}

TEST_P(SessionTest, NoNewTokensOnlyFeedsThePrompt) {
  const std::unique_ptr<Session> session = open_session(options());
  EXPECT_TRUE(generate(*session, tokens(6), greedy(0)).empty());
  EXPECT_EQ(session->n_past(), 6u);
}

TEST_P(SessionTest, SampledTokensRepeatWithTheSeed) {
  const std::unique_ptr<Session> session = open_session(options());
  GenerateOptions o{.max_new_tokens = 8};
  o.sampler.temperature = 5;
  o.sampler.top_k = 0;
  o.sampler.seed = 11;
  const std::vector<TokenId> first = generate(*session, tokens(6), o);
  session->reset();
  EXPECT_EQ(generate(*session, tokens(6), o), first);
  EXPECT_EQ(first.size(), 8u);
}

INSTANTIATE_TEST_SUITE_P(Backends, SessionTest, testing::Values("cpu", "cuda"), [](const auto& info) { return info.param; });

TEST(OpenSession, CudaWithoutDriverSaysSo) {
  SessionOptions options;
  options.model_path = "/does/not/exist.gguf";
  options.device = "cuda";
  options.libcuda_path = "/does/not/exist/libcuda.so.1";
  const Error error = require_error([&] { open_session(options); });
  EXPECT_EQ(error.kind(), ErrorKind::kCuda) << error.what();
  EXPECT_NE(error.message().find("/does/not/exist/libcuda.so.1"), std::string::npos) << error.what();
}

TEST(OpenSession, UnknownDeviceIsAUsageError) {
  SessionOptions options;
  options.device = "cuda:x";
  const Error error = require_error([&] { open_session(options); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_EQ(error.message(), "--device: expected auto, cpu, cuda or cuda:N, found 'cuda:x'");
}

TEST(OpenSession, MissingFileIsAnIoError) {
  SessionOptions options;
  options.model_path = "/does/not/exist.gguf";
  options.device = "cpu";
  EXPECT_EQ(require_error([&] { open_session(options); }).kind(), ErrorKind::kIo);
}

TEST(ContextTokens, DefaultIsTheTrainedContextUpTo4096) {
  ModelDesc model;
  model.trained_ctx_tokens = 2048;
  EXPECT_EQ(context_tokens(model, 0), 2048u);
  model.trained_ctx_tokens = 131072;
  EXPECT_EQ(context_tokens(model, 0), 4096u);
  EXPECT_EQ(context_tokens(model, 10), 10u);
}

TEST(Argmax, TakesTheLowestOfEqualLogitsAndRefusesNan) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_THROW(argmax(std::vector<float>{1, NAN}), Error);
}

}  // namespace
}  // namespace sj::session_test
