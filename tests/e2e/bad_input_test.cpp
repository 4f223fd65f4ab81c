// What a user can get wrong: each case ends with the exit code of its kind and a message that names the trouble.
#include <gtest/gtest.h>

#include "tests/e2e/binary.h"
#include "tests/e2e/failure.h"
#include "tests/e2e/tiny_model.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::bad_input_test {
namespace {

constexpr int kUsage = 2, kIo = 3, kBadModel = 4, kUnsupported = 5, kCuda = 7;

class BadInput : public testing::Test {
 protected:
  static Outcome run_model(const std::string& path, std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"run", "-m", path, "-p", "abc", "-n", "1", "--device", "cpu"};
    args.insert(args.end(), more.begin(), more.end());
    return run_sparkjit(args);
  }
  std::string write(const TinyModelOptions& options) { return folder_.write("tiny.gguf", tiny_model_bytes(options)); }
  TempDir folder_;
};

TEST_F(BadInput, MissingFile) { expect_error(run_model("no/such.gguf"), kIo, {"no/such.gguf", "No such file"}); }

TEST_F(BadInput, FolderInsteadOfAFile) { expect_error(run_model(folder_.path().string()), kIo, {folder_.path().string()}); }

TEST_F(BadInput, UnreadableFile) {
  const std::string path = write({});
  std::filesystem::permissions(path, std::filesystem::perms::none);
  const Outcome outcome = run_sparkjit({"run", "-m", path, "-p", "abc", "-n", "1", "--device", "cpu"}, {.as_nobody = true});
  if (outcome.exit_code == 126) GTEST_SKIP() << "nobody may run the binary here";
  expect_error(outcome, kIo, {path, "Permission denied"});
}

TEST_F(BadInput, NotAGguf) { expect_error(run_model(folder_.write("x.gguf", std::string(4096, 'x'))), kBadModel, {"x.gguf", "GGUF"}); }

TEST_F(BadInput, EmptyFile) { expect_error(run_model(folder_.write("x.gguf", "")), kBadModel, {"x.gguf"}); }

TEST_F(BadInput, TruncatedAtEveryPercent) {
  const std::string bytes = tiny_model_bytes();
  for (size_t percent = 0; percent < 100; ++percent) {
    SCOPED_TRACE(percent);
    const std::string path = folder_.write("cut.gguf", std::string_view(bytes).substr(0, bytes.size() * percent / 100));
    expect_error(run_model(path), kBadModel, {"cut.gguf"});
  }
}

TEST_F(BadInput, UnknownArchitecture) {
  expect_error(run_model(write({.architecture = "perceptron"})), kUnsupported, {"perceptron", "llama"});
}

TEST_F(BadInput, MissingTensor) {
  expect_error(run_model(write({.left_out_tensor = "blk.1.ffn_up.weight"})), kBadModel, {"blk.1.ffn_up.weight"});
}

TEST_F(BadInput, WrongShape) {
  expect_error(run_model(write({.misshaped_tensor = "blk.1.attn_k.weight"})), kBadModel, {"blk.1.attn_k.weight", "16", "17"});
}

TEST_F(BadInput, WrongType) {
  expect_error(run_model(write({.wrong_type_tensor = "blk.1.attn_k.weight"})), kBadModel, {"blk.1.attn_k.weight", "I32"});
}

TEST_F(BadInput, ZeroWidth) { expect_error(run_model(write({.d_model = 0})), kBadModel, {"llama.embedding_length", "0"}); }

TEST_F(BadInput, OverflowingWidth) {
  expect_error(run_model(write({.d_model = 0xFFFFFFFEu})), kBadModel, {"llama.embedding_length"});
}

TEST_F(BadInput, OverflowingDimension) {
  const std::string file = gguf_head(1, 0) + gguf_tensor("a", {int64_t{1} << 62, 4}, 0, 0);
  expect_error(run_model(folder_.write("x.gguf", padded(file))), kBadModel, {"x.gguf"});
}

TEST_F(BadInput, TypeWithoutAKernel) {
  const std::string file = gguf_head(1, 0) + gguf_tensor("blk.0.ffn_up.weight", {256, 4}, 16, 0);
  expect_error(run_model(folder_.write("x.gguf", padded(file))), kUnsupported, {"x.gguf", "blk.0.ffn_up.weight", "tensor type IQ2_XXS (id 16) is not supported"});
}

TEST_F(BadInput, OverlappingTensors) {
  const std::string file = gguf_head(2, 0) + gguf_tensor("first", {64}, 0, 0) + gguf_tensor("second", {64}, 0, 32);
  expect_error(run_model(folder_.write("x.gguf", padded(file) + std::string(1024, '\0'))), kBadModel, {"second"});
}

TEST_F(BadInput, ManyKeysAreNoBurden) {
  const std::string path = write({.n_extra_keys = 200'000});
  const Outcome outcome = run_sparkjit({"inspect", "-m", path, "--stage", "model"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
#ifdef SJ_SANITIZED
  constexpr double kLimit_s = 5;
#else
  constexpr double kLimit_s = 1;
#endif
  EXPECT_LT(outcome.wall_s, kLimit_s);   // the promise is 0.1 s on an idle machine; quadratic work would take minutes
}

TEST_F(BadInput, NoVocabulary) {
  expect_error(run_model(write({.has_vocab = false})), kUnsupported, {"no vocabulary", "--tokens"});
}

TEST_F(BadInput, PromptLongerThanTheContext) {
  expect_error(run_model(write({}), {"-c", "3"}), kUsage, {"--prompt: 4 tokens", "context of 3"});
}

TEST_F(BadInput, TokensOutsideOfTheVocabulary) {
  const std::string tokens = folder_.write("t.i32", le<int32_t>(5) + le<int32_t>(259));
  expect_error(run_sparkjit({"score", "-m", write({}), "--tokens", tokens, "--device", "cpu"}), kUsage,
               {"t.i32: token 1 is 259", "258"});
}

TEST_F(BadInput, ReferenceOfAnotherSize) {
  const std::string tokens = folder_.write("t.i32", le<int32_t>(5) + le<int32_t>(6));
  const std::string reference = folder_.write("r.f32", std::string(100, '\0'));
  expect_error(run_sparkjit({"score", "-m", write({}), "--tokens", tokens, "--reference", reference, "--device", "cpu"}), kUsage,
               {"r.f32: 100 bytes", "2072"});
}

TEST_F(BadInput, JudgedLogitsOfAnotherSize) {
  const std::string tokens = folder_.write("t.i32", le<int32_t>(5) + le<int32_t>(6));
  const std::string logits = folder_.write("l.f32", std::string(100, '\0'));
  expect_error(run_sparkjit({"score", "-m", write({}), "--tokens", tokens, "--logits-in", logits}), kUsage, {"l.f32: 100 bytes", "2072"});
}

TEST_F(BadInput, Float64OnAGpu) {
  const std::string tokens = folder_.write("t.i32", le<int32_t>(5));
  expect_error(run_sparkjit({"score", "-m", write({}), "--tokens", tokens, "--f64", "--device", "cuda"}), kUsage,
               {"--f64: float64 is computed on the CPU only, and --device is cuda"});
}

TEST_F(BadInput, CudaWithoutADriver) {
  expect_error(run_sparkjit({"run", "-m", write({}), "-p", "abc", "--device", "cuda", "--libcuda", "/no/such/libcuda.so"}), kCuda,
               {"/no/such/libcuda.so"});
}

TEST_F(BadInput, CudaWithoutAGpu) {
  if (has_gpu()) GTEST_SKIP() << "this machine has a GPU";
  expect_error(run_sparkjit({"run", "-m", write({}), "-p", "abc", "--device", "cuda"}), kCuda, {"--device cpu"});
}

TEST_F(BadInput, DriverFileThatIsNoLibrary) {
  const std::string fake = folder_.write("libcuda.so.1", "not a library");
  expect_error(run_sparkjit({"run", "-m", write({}), "-p", "abc", "--device", "cuda", "--libcuda", fake}), kCuda, {fake});
}

TEST_F(BadInput, FlagValues) {
  const std::string model = write({});
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--temp", "hot"}, "--temp: 'hot' is not a number from 0 to 100"},
      {{"--temp", "-1"}, "--temp: '-1' is not a number from 0 to 100"},
      {{"--top-p", "1.5"}, "--top-p: '1.5' is not a number from 0 to 1"},
      {{"--min-p", "nan"}, "--min-p: 'nan' is not a number from 0 to 1"},
      {{"--top-k", "4.5"}, "--top-k: '4.5' is not a whole number from 0 to 16777216"},
      {{"-n", "-2"}, "--n-predict: '-2' is not a whole number from 0 to 16777216"},
      {{"-c", "99999999999"}, "--ctx: '99999999999' is not a whole number from 0 to 16777216"},
      {{"--seed", "4294967296"}, "--seed: '4294967296' is not a whole number from 0 to 4294967295"},
      {{"--device", "tpu"}, "--device: 'tpu' is not one of auto, cpu, cuda, cuda:N"},
      {{"--no-such-flag"}, "--no-such-flag"},
  };
  for (const auto& [flags, message] : cases) {
    SCOPED_TRACE(message);
    std::vector<std::string> args = {"run", "-m", model, "-p", "abc"};
    args.insert(args.end(), flags.begin(), flags.end());
    expect_error(run_sparkjit(args), kUsage, {message});
  }
}

TEST_F(BadInput, OptionsFileNamesLineAndKey) {
  const std::string model = write({});
  const auto run_with = [&](const std::string& text, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--config", folder_.write("options.toml", text)});
    return run_model(model, more);
  };
  expect_error(run_with("threads = 1\ncontext = 3\n"), kUsage, {"options.toml:2: context: no such key; the nearest is "});
  expect_error(run_with("threads = 'x'\n"), kUsage, {"options.toml:1: threads: expected a whole number from 0 to 4096, found the string \"x\""});
  expect_error(run_with("ctx = 3\n"), kUsage, {"context of 3"});
  EXPECT_EQ(run_with("ctx = 3\n", {"-c", "32"}).exit_code, 0);   // a flag wins
  expect_error(run_model(model, {"--config", "/no/such/options.toml"}), kIo, {"/no/such/options.toml"});
}

TEST_F(BadInput, VariableBeatsTheOptionsFile) {
  const std::string file = folder_.write("options.toml", "libcuda = '/from/file/libcuda.so'\ndevice = 'cuda'\n");
  const std::vector<std::string> args = {"run", "-m", write({}), "-p", "abc", "--config", file};
  expect_error(run_sparkjit(args), kCuda, {"/from/file/libcuda.so"});
  expect_error(run_sparkjit(args, {.environment = {{"SPARKJIT_LIBCUDA", "/from/variable/libcuda.so"}}}), kCuda, {"/from/variable/libcuda.so"});
}

TEST_F(BadInput, RandomContextOnTheCpu) {
  expect_error(run_sparkjit({"bench", "-m", write({}), "-d", "8", "-n", "1", "--fill", "random", "--device", "cpu"}), kUnsupported,
               {"random keys and values", "needs a GPU"});
}

TEST_F(BadInput, ShapesToMeasure) {
  expect_error(run_sparkjit({"bench", "-p", "4"}), kUsage, {"one of --model and --shape is required"});
  expect_error(run_sparkjit({"bench", "-m", write({}), "--layers", "1"}), kUsage, {"--layers: a file has the layers it has"});
  expect_error(run_sparkjit({"bench", "--shape", "qwen9"}), kUsage, {"qwen9", "qwen3-30b-a3b"});
  expect_error(run_sparkjit({"bench", "--shape", "smollm2-135m", "--device", "cpu"}), kUnsupported,
               {"shape smollm2-135m: weights without a file are made in GPU memory only (--device is cpu)", "sparkjit synth"});
  expect_error(run_sparkjit({"bench", "--shape", "smollm2-135m", "--libcuda", "/no/such/libcuda.so"}), kUnsupported,
               {"GPU memory only (", "/no/such/libcuda.so"});
}

TEST_F(BadInput, StdoutThatIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const std::string command = binary_path() + " inspect -m " + write({}) + " > /dev/full 2> " + (folder_.path() / "err").string();
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), kIo);
}

}  // namespace
}  // namespace sj::test::bad_input_test
