// Every verb on a made-up model of a few kilobytes, on the CPU: output, streams, exit codes.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/binary.h"
#include "tests/e2e/tiny_model.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::tiny_model_test {
namespace {

class TinyModel : public testing::Test {
 protected:
  Outcome run(std::vector<std::string> args, const RunOptions& options = {}) {
    args.insert(args.begin() + 1, {"-m", model_});
    args.insert(args.end(), {"--device", "cpu"});
    return run_sparkjit(args, options);
  }
  TempDir folder_;
  std::string model_ = folder_.write("tiny.gguf", tiny_model_bytes());
};

bool is_valid_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();   // refuses anything else
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

TEST_F(TinyModel, RunPrintsOnlyTextOnStdout) {
  const Outcome outcome = run({"run", "-p", "abc", "-n", "20", "--temp", "0", "--ignore-eog", "--timings"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
  EXPECT_EQ(outcome.out.back(), '\n');
  EXPECT_TRUE(is_valid_utf8(outcome.out));
  EXPECT_EQ(outcome.out.find("# run"), std::string::npos);
  EXPECT_NE(outcome.err.find("# run: decode 20 tokens"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("ms after process start"), std::string::npos) << outcome.err;
}

TEST_F(TinyModel, GreedyRunsAreEqual) {
  const Outcome first = run({"run", "-p", "abc", "-n", "20", "--temp", "0"});
  EXPECT_EQ(first.out, run({"run", "-p", "abc", "-n", "20", "--temp", "0", "--seed", "7"}).out);
  EXPECT_EQ(first.out, run({"run", "-p", "abc", "-n", "20", "--top-k", "1"}).out);
}

TEST_F(TinyModel, SeedDecidesTheDraws) {
  const std::vector<std::string> args = {"run", "-p", "abc", "-n", "30", "--temp", "2", "--min-p", "0", "--seed"};
  const auto text = [&](const char* seed) {
    std::vector<std::string> with_seed = args;
    with_seed.push_back(seed);
    return run(with_seed).out;
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
}

TEST_F(TinyModel, PromptComesFromStandardInputOrAFile) {
  const std::string expected = run({"run", "-p", "hello", "-n", "8", "--temp", "0"}).out;
  EXPECT_EQ(run({"run", "-p", "-", "-n", "8", "--temp", "0"}, {.input = "hello"}).out, expected);
  EXPECT_EQ(run({"run", "-f", folder_.write("prompt.txt", "hello"), "-n", "8", "--temp", "0"}).out, expected);
}

TEST_F(TinyModel, ZeroTokensPrintNothing) {
  const Outcome outcome = run({"run", "-p", "abc", "-n", "0"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "\n");
}

TEST_F(TinyModel, GenerationEndsWithTheContext) {
  const Outcome outcome = run({"run", "-p", "abc", "-n", "1000", "-c", "32", "--temp", "0", "--ignore-eog", "--timings"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("decode 1000 tokens"), std::string::npos) << outcome.err;
}

TEST_F(TinyModel, CtrlCEndsTheTextCleanly) {
  const std::string model = folder_.write("long.gguf", tiny_model_bytes({.ctx_tokens = 1 << 20}));
  const Outcome outcome = run_sparkjit({"run", "-m", model, "-p", "abc", "-n", "1000000", "-c", "1000000", "--temp", "1", "--ignore-eog", "--device",
                                        "cpu", "--timings"},
                                       {.interrupt_when = [](const std::string& out) { return out.size() > 10; }});
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_TRUE(is_valid_utf8(outcome.out));
  EXPECT_NE(outcome.err.find("# run: decode"), std::string::npos) << outcome.err;
}

TEST_F(TinyModel, ScoreIsTheSameInAnySplit) {
  std::string ids;
  for (int32_t i = 0; i < 40; ++i) ids += le<int32_t>((i * 37 + 5) % 259);
  const std::string tokens = folder_.write("tokens.i32", ids);
  const std::string logits = (folder_.path() / "logits.f32").string();
  const Outcome whole = run({"score", "--tokens", tokens, "--logits-out", logits, "-o", "json"});
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_EQ(std::filesystem::file_size(logits), 40u * 259 * 4);
  for (const char* chunks : {"1", "7", "39,1", "1,2,3,4"}) {
    const Outcome split = run({"score", "--tokens", tokens, "--reference", logits, "--chunks", chunks, "-o", "json"});
    ASSERT_EQ(split.exit_code, 0) << split.err;
    const auto report = nlohmann::json::parse(split.out);
    EXPECT_LT(report["max_abs_difference"].get<double>(), 1e-4) << chunks;   // float32 sums in another order, |logit| < 10
    EXPECT_NEAR(report["perplexity"].get<double>(), nlohmann::json::parse(whole.out)["perplexity"].get<double>(), 1e-3);
  }
}

TEST_F(TinyModel, ScoreComparesWithTheFloat64Reference) {
  const std::string tokens = folder_.write("tokens.i32", le<int32_t>(5) + le<int32_t>(9) + le<int32_t>(7));
  const auto path = [&](const char* name) { return (folder_.path() / name).string(); };
  ASSERT_EQ(run({"score", "--tokens", tokens, "--f64", "--logits-out", path("f64")}).exit_code, 0);
  const Outcome computed = run({"score", "--tokens", tokens, "--reference", path("f64"), "--logits-out", path("f32"), "-o", "json"});
  ASSERT_EQ(computed.exit_code, 0) << computed.err;
  const auto report = nlohmann::json::parse(computed.out);
  EXPECT_GT(report["max_abs_difference"].get<double>(), 0);   // float32 and a half precision cache against float64
  EXPECT_LT(report["max_kl"].get<double>(), 1e-4);
  // The file's rows are judged as the session's were, whoever wrote them.
  EXPECT_EQ(run({"score", "--tokens", tokens, "--reference", path("f64"), "--logits-in", path("f32"), "-o", "json"}).out, computed.out);
}

TEST_F(TinyModel, ScoreOfTextCountsTheStartToken) {
  const Outcome outcome = run({"score", "--text", folder_.write("text.txt", "hello"), "-o", "json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["tokens"], 6);
}

TEST_F(TinyModel, BenchPrintsARowATest) {
  const Outcome outcome = run({"bench", "-p", "8,16", "-d", "4", "-n", "4", "-r", "3", "-o", "json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto rows = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["test"], "pp8");
  EXPECT_EQ(rows[2]["test"], "tg4 @ d4");
  for (const auto& row : rows) {
    EXPECT_EQ(row["samples"].size(), 3u);
    EXPECT_GT(row["tokens_per_s"].get<double>(), 0);
  }
}

TEST_F(TinyModel, InspectShowsEachStage) {
  const auto text = [&](const char* stage) {
    const Outcome outcome = run_sparkjit({"inspect", "-m", model_, "--stage", stage});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  };
  EXPECT_NE(text("file").find("general.architecture = \"llama\""), std::string::npos);
  EXPECT_NE(text("file").find("blk.1.ffn_down.weight"), std::string::npos);
  EXPECT_NE(text("model").find("2 heads"), std::string::npos);
  EXPECT_NE(text("graph").find("attn_q"), std::string::npos);
}

TEST_F(TinyModel, InspectTakesAShapeForAFile) {
  const Outcome predict = run_sparkjit({"inspect", "--shape", "qwen3-30b-a3b", "--layers", "2", "--stage", "predict", "-d", "16,64"});
  EXPECT_EQ(predict.exit_code, 0) << predict.err;
  EXPECT_TRUE(predict.out.starts_with("prediction, not a measurement: NVIDIA GeForce RTX 5090")) << predict.out;
  EXPECT_NE(predict.out.find("\n| 64 | "), std::string::npos) << predict.out;
  const Outcome model = run_sparkjit({"inspect", "--shape", "qwen3-8b", "--stage", "model"});
  EXPECT_EQ(model.exit_code, 0) << model.err;
  EXPECT_NE(model.out.find("36 layers"), std::string::npos) << model.out;
  EXPECT_EQ(run_sparkjit({"inspect", "--stage", "model"}).exit_code, 2);
}

TEST_F(TinyModel, SynthWritesAModelThatOpensAndScores) {
  const std::string path = (folder_.path() / "synth.gguf").string();
  const Outcome written = run_sparkjit({"synth", "--shape", "qwen3-0.6b", "--layers", "2", "-o", path});
  ASSERT_EQ(written.exit_code, 0) << written.err;
  EXPECT_EQ(written.out, path + " " + std::to_string(std::filesystem::file_size(path)) + " bytes\n");
  const Outcome model = run_sparkjit({"inspect", "-m", path, "--stage", "model"});
  EXPECT_EQ(model.exit_code, 0) << model.err;
  EXPECT_NE(model.out.find("qwen3"), std::string::npos) << model.out;
  const std::string tokens = folder_.write("tokens.i32", le<int32_t>(5) + le<int32_t>(600) + le<int32_t>(7));
  const Outcome score = run_sparkjit({"score", "-m", path, "--tokens", tokens, "--device", "cpu", "-o", "json"});
  ASSERT_EQ(score.exit_code, 0) << score.err;
  EXPECT_GT(nlohmann::json::parse(score.out)["perplexity"].get<double>(), 1.0);
}

TEST_F(TinyModel, SynthRefusesAnUnknownShape) {
  const Outcome outcome = run_sparkjit({"synth", "--shape", "no-such-model", "-o", (folder_.path() / "x.gguf").string()});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("no-such-model"), std::string::npos) << outcome.err;
}

TEST_F(TinyModel, DoctorAlwaysHasAnAnswer) {
  const Outcome outcome = run_sparkjit({"doctor"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* part : {"driver", "compiler", "cache", "kv cache", "cpu", "works"}) EXPECT_NE(outcome.out.find(part), std::string::npos) << part;
}

TEST_F(TinyModel, KvTypeIsToldAndRefusedWhereItCannotBe) {
  EXPECT_NE(run_sparkjit({"doctor"}, {.environment = {{"SPARKJIT_KV_TYPE", "q8_0"}}}).out.find("q8_0 (--kv-type)"), std::string::npos);
  const std::string model = folder_.write("wide.gguf", tiny_model_bytes({.n_head = 1})), narrow = folder_.write("narrow.gguf", tiny_model_bytes());
  const auto run = [](const std::string& path, std::vector<std::string> more) {
    std::vector<std::string> args = {"run", "-m", path, "-p", "a", "-n", "1", "--device", "cpu", "--cache-dir", "none"};
    args.insert(args.end(), more.begin(), more.end());
    return run_sparkjit(args);
  };
  EXPECT_EQ(run(model, {"--kv-type", "q8_0"}).exit_code, 0);
  const Outcome both = run(model, {"--kv-type", "q8_0", "--f32"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_NE(both.err.find("--kv-type q8_0 doesn't go with --f32"), std::string::npos) << both.err;
  EXPECT_EQ(run(model, {"--kv-type", "q4_0"}).exit_code, 2);
  const Outcome small = run(narrow, {"--kv-type", "q8_0"});
  EXPECT_EQ(small.exit_code, 5);
  EXPECT_NE(small.err.find("head_dim 16 is not a multiple of 32, as a q8_0 KV cache wants it; use --kv-type f16"), std::string::npos) << small.err;
  const Outcome wrong = run_sparkjit({"run", "-m", model, "-p", "a", "-n", "1", "--device", "cpu"}, {.environment = {{"SPARKJIT_KV_TYPE", "q9"}}});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.err.find("SPARKJIT_KV_TYPE): expected f16 or q8_0, found 'q9'"), std::string::npos) << wrong.err;
}

TEST_F(TinyModel, CacheCountsItsKernels) {
  const std::string dir = (folder_.path() / "cache").string();
  const Outcome stats = run_sparkjit({"cache", "stats", "--cache-dir", dir, "-o", "json"});
  ASSERT_EQ(stats.exit_code, 0) << stats.err;
  EXPECT_EQ(nlohmann::json::parse(stats.out)["entries"], 0);
  for (const char* action : {"ls", "verify", "gc", "clear"}) {
    const Outcome outcome = run_sparkjit({"cache", action, "--cache-dir", dir});
    EXPECT_EQ(outcome.exit_code, 0) << action << outcome.err;
  }
}

}  // namespace
}  // namespace sj::test::tiny_model_test
