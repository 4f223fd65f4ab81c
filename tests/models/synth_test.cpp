#include "models/synth.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "models/dequant.h"
#include "models/model_desc.h"
#include "models/tokenizer.h"
#include "tests/support/gguf_writer.h"

namespace sj::synth_test {
namespace {

using test::TempDir;

template <class Call>
Error error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorKind::kInternal, "nothing was thrown");
}

constexpr std::string_view kTiny = R"(name = "tiny"
architecture = "qwen3moe"
[hyperparameters]
block_count = 8
context_length = 128
embedding_length = 256
attention.head_count = 4
attention.head_count_kv = 2
attention.key_length = 64
attention.value_length = 64
attention.layer_norm_rms_epsilon = 1e-6
expert_count = 4
expert_used_count = 2
expert_feed_forward_length = 96
feed_forward_length = 512
[tokenizer]
pre = "qwen2"
n_vocab = 320
eos_token_id = 5
[mix]
token_embd = "Q4_K"
output = "Q6_K"
output_norm = "F32"
attn_norm = "F32"
attn_q = "Q4_K"
attn_k = "Q4_K"
attn_v = {type = "Q4_K", important = "Q6_K"}
attn_output = "Q4_K"
attn_q_norm = "F32"
attn_k_norm = "F32"
ffn_norm = "F32"
ffn_gate_inp = "F32"
ffn_gate_exps = "Q4_K"
ffn_up_exps = "Q4_K"
ffn_down_exps = {type = "Q4_K", important = "Q6_K"}
)";

std::string with(std::string_view from, std::string_view to) {
  std::string text(kTiny);
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Shapes, AllOfTheBinaryDescribeModels) {
  EXPECT_EQ(shape_names(), (std::vector<std::string>{"qwen3-0.6b", "qwen3-30b-a3b", "qwen3-8b", "qwen3-coder-30b", "smollm2-135m"}));
  for (const std::string& name : shape_names()) {
    SCOPED_TRACE(name);
    const ShapeFile shape = load_shape(name);
    EXPECT_EQ(shape.name, name);
    const GgufFile file = synthetic_gguf(shape, {});
    const ModelDesc model = describe_model(file);
    EXPECT_EQ(model.n_layers, shape.require_dim("block_count"));
    EXPECT_EQ(model.n_vocab, shape.tokenizer.n_vocab);
    EXPECT_EQ(model.is_head_tied, shape.mix.count("output") == 0);
  }
}

TEST(Shapes, TheMixOfQwen3Moe30bIsThatOfQ4KM) {
  const std::vector<ShapeTensor> tensors = shape_tensors(load_shape("qwen3-30b-a3b"));
  EXPECT_EQ(tensors.size(), 48u * 12 + 3);
  std::string favoured;
  uint64_t n_bytes = 0;
  for (const ShapeTensor& tensor : tensors) {
    if (tensor.role == "attn_v") favoured += tensor.dtype == DType::kQ6_K ? '6' : '4';
    uint64_t n_elems = 1;
    for (const uint64_t dim : tensor.shape) n_elems *= dim;
    n_bytes += n_elems / dtype_info(tensor.dtype).block_elems * dtype_info(tensor.dtype).block_bytes;
  }
  // 6 = 48/8 layers, then every third of 6..41 beginning with 8, then the last 6.
  EXPECT_EQ(favoured, "666666446446446446446446446446446446446446666666");
  EXPECT_NEAR(1e-9 * static_cast<double>(n_bytes), 18.55, 0.1);   // the published file has 18.6 GB
}

TEST(Shapes, RowsThatAreNoMultipleOf256FallBack) {
  EXPECT_EQ(fallback_type(DType::kQ4_K, 576), DType::kQ5_0);
  EXPECT_EQ(fallback_type(DType::kQ5_K, 576), DType::kQ5_1);
  EXPECT_EQ(fallback_type(DType::kQ6_K, 576), DType::kQ8_0);
  EXPECT_EQ(fallback_type(DType::kQ2_K, 32), DType::kQ4_0);
  EXPECT_EQ(fallback_type(DType::kQ3_K, 96), DType::kQ4_0);
  EXPECT_EQ(fallback_type(DType::kIQ4_XS, 96), DType::kIQ4_NL);
  EXPECT_EQ(fallback_type(DType::kQ4_K, 48), DType::kF16);
  EXPECT_EQ(fallback_type(DType::kMXFP4, 48), DType::kF16);
  EXPECT_EQ(fallback_type(DType::kQ4_K, 1536), DType::kQ4_K);
  for (const ShapeTensor& tensor : shape_tensors(load_shape("smollm2-135m"))) {
    if (tensor.name == "token_embd.weight") { EXPECT_EQ(tensor.dtype, DType::kQ8_0); }
    if (tensor.role == "attn_q") { EXPECT_EQ(tensor.dtype, DType::kQ5_0); }
    if (tensor.name == "blk.0.ffn_down.weight") { EXPECT_EQ(tensor.dtype, DType::kQ6_K); }
  }
}

TEST(Shapes, RefuseWhatCantBe) {
  struct Case { std::string text, message; };
  const std::vector<Case> cases = {
      {with("attn_q = ", "attn_qq = "), "t.toml line 25: unknown tensor role \"attn_qq\"; known are token_embd, attn_norm, attn_q,"},
      {with("attn_q = \"Q4_K\"", "attn_q = \"Q9_K\""), "t.toml line 25: attn_q: \"Q9_K\" is no weight type"},
      {with("attn_q = \"Q4_K\"", "attn_q = \"I32\""), "attn_q: \"I32\" is no weight type"},
      {with("attn_q = \"Q4_K\"", "attn_q = 4"), "t.toml line 25: attn_q: expected a text"},
      {with("important = \"Q6_K\"", "favoured = \"Q6_K\""), "attn_v: unknown key \"favoured\"; known are type, important"},
      {with("type = \"Q4_K\", ", ""), "attn_v: type is missing"},
      {with("output_norm = \"F32\"", ""), "t.toml: [mix]: role \"output_norm\" is missing"},
      {with("embedding_length = 256", "embedding_length = 0"), "t.toml: embedding_length: expected an integer from 1 on"},
      {with("embedding_length = 256", "embedding_length = -256"), "t.toml line 6: embedding_length: expected an integer from 0 to 2147483647, found -256"},
      {with("embedding_length = 256", "embedding_length = 99999999999"), "found 99999999999"},
      {with("embedding_length = 256", ""), "t.toml: hyperparameter embedding_length is missing"},
      {with("block_count = 8", "block_count = 513"), "t.toml: expected 1 to 512 layers, found 513"},
      {with("attention.head_count_kv = 2", "attention.head_count_kv = 3"), "attention.head_count 4 is no multiple of attention.head_count_kv 3"},
      {with("expert_used_count = 2", "expert_used_count = 5"), "expert_used_count 5 must be from 1 to expert_count 4"},
      {with("expert_feed_forward_length = 96", "expert_feed_forward_length = 1200000000"), "t.toml: the tensors up to blk.7.ffn_down_exps.weight have "},
      {with("expert_count = 4\n", "expert_count = 2000000000\n"), "is impossibly large"},
      {with("n_vocab = 320", "n_vocab = 100"), "tokenizer: expected pre and n_vocab from 300 on, found \"qwen2\" and 100"},
      {with("eos_token_id = 5", "eos_token_id = 320"), "special token 320 is outside the vocabulary of 320"},
      {with("eos_token_id = 5", "eot = 5"), "unknown key tokenizer.eot"},
      {with("name = \"tiny\"", ""), "t.toml: name and architecture must be given"},
      {with("[mix]", "[mixture]"), "t.toml line 20: unknown key mixture"},
      {with("[mix]", "[mix"), "t.toml line 20"},
  };
  EXPECT_NO_THROW(parse_shape(kTiny, "t.toml"));
  for (const Case& c : cases) {
    const Error error = error_of([&] { parse_shape(c.text, "t.toml"); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(error.message().find(c.message), std::string::npos) << error.message() << "\nexpected: " << c.message;
  }
  EXPECT_NE(error_of([] { load_shape("qwen9"); }).message().find("shape \"qwen9\": expected one of qwen3-0.6b, qwen3-30b-a3b,"), std::string::npos);
  EXPECT_EQ(error_of([] { load_shape("/nonexistent/x.toml"); }).kind(), ErrorKind::kIo);
}

TEST(Synth, WritesAFileThatOpensDescribesAndTokenises) {
  const TempDir dir;
  const ShapeFile shape = parse_shape(kTiny, "tiny");
  const std::string path = (dir.path() / "tiny.gguf").string();
  uint64_t last_done = 0, last_total = 0;
  const uint64_t n_bytes = write_synthetic_gguf(shape, {.path = path, .seed = 3, .n_threads = 3, .progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last_done);
    last_done = done;
    last_total = total;
  }});
  EXPECT_EQ(std::filesystem::file_size(path), n_bytes);
  EXPECT_EQ(last_total, n_bytes);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1) << "a temporary file is left";
  const GgufFile file = open_gguf(path);
  const ModelDesc model = describe_model(file);
  EXPECT_EQ(model.n_layers, 8u);
  EXPECT_EQ(model.n_experts, 4u);
  EXPECT_EQ(file.require_tensor("blk.0.ffn_down_exps.weight").dtype, DType::kQ8_0);   // rows of 96

  const Tokenizer tokenizer = Tokenizer::from_gguf(file);
  EXPECT_EQ(tokenizer.n_tokens(), 320u);
  EXPECT_EQ(tokenizer.eos(), std::optional<TokenId>(5));
  const std::string text = "The cat, \xE6\xBC\xA2\n at the\tsea \x01!";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  std::set<std::string_view> distinct;
  for (const std::string_view token : file.require_strings("tokenizer.ggml.tokens")) EXPECT_TRUE(distinct.insert(token).second) << token;
}

TEST(Synth, EqualSeedsGiveEqualBytesWhateverTheThreads) {
  const TempDir dir;
  const ShapeFile shape = parse_shape(kTiny, "tiny");
  const auto bytes = [&](uint64_t seed, uint32_t n_threads) {
    const std::string path = (dir.path() / "x.gguf").string();
    write_synthetic_gguf(shape, {.path = path, .n_layers = 2, .seed = seed, .n_threads = n_threads});
    return read_all(path);
  };
  const std::string one = bytes(1, 1);
  EXPECT_TRUE(one == bytes(1, 4));
  EXPECT_FALSE(one == bytes(2, 1));
}

TEST(Synth, WeightsWithoutAFileAreThoseOfTheFile) {
  const TempDir dir;
  const ShapeFile shape = parse_shape(kTiny, "tiny");
  const SynthOptions options{.path = (dir.path() / "tiny.gguf").string(), .n_layers = 1, .seed = 9};
  write_synthetic_gguf(shape, options);
  const GgufFile on_disk = open_gguf(options.path);
  const GgufFile nowhere = synthetic_gguf(shape, options);
  EXPECT_FALSE(nowhere.has_data());
  EXPECT_EQ(nowhere.fd(0), -1);
  ASSERT_EQ(nowhere.tensors().size(), on_disk.tensors().size());
  for (const TensorInfo& tensor : nowhere.tensors()) {
    const uint64_t row_bytes = tensor.n_bytes / tensor.n_rows(), middle = tensor.n_rows() / 2;
    std::vector<std::byte> rows(row_bytes * (tensor.n_rows() - middle));
    synthesise_tensor(tensor, 9, middle, rows);
    const auto expected = on_disk.bytes(on_disk.require_tensor(tensor.name)).subspan(middle * row_bytes);
    ASSERT_EQ(expected.size(), rows.size());
    EXPECT_EQ(std::memcmp(expected.data(), rows.data(), rows.size()), 0) << tensor.name;
  }
  EXPECT_EQ(error_of([&] { nowhere.bytes(nowhere.tensors()[0]); }).message(), "shape tiny: tensor token_embd.weight has no data");
  std::vector<std::byte> odd(7);
  EXPECT_EQ(error_of([&] { synthesise_tensor(nowhere.tensors()[0], 0, 0, odd); }).kind(), ErrorKind::kInternal);
}

class SynthTypeTest : public testing::TestWithParam<DType> {};

TEST_P(SynthTypeTest, ValuesAreFiniteCentredAndOfTheWantedSpread) {
  TensorInfo tensor{.name = "blk.0.ffn_up.weight", .dtype = GetParam(), .shape = {256, 2048}};
  const DTypeInfo& info = dtype_info(tensor.dtype);
  tensor.n_bytes = tensor.n_elems() / info.block_elems * info.block_bytes;
  std::vector<std::byte> bytes(tensor.n_bytes);
  synthesise_tensor(tensor, 1, 0, bytes);
  std::vector<float> y(tensor.n_elems());
  dequantise(tensor.dtype, bytes, y.data(), y.size());
  double sum = 0, squares = 0;
  for (const float v : y) {
    ASSERT_TRUE(std::isfinite(v));
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  const double sigma = 1 / std::sqrt(2048.0), n = static_cast<double>(y.size());
  // 524,288 values in 2,048 or more blocks: the mean of a block with a random sign is at most sigma/8, so the whole is
  // within sigma * (1/8) / sqrt(2048) * 5 = 0.014 sigma; scales are shared, hence not sqrt(n).
  EXPECT_LT(std::abs(sum / n), 0.02 * sigma);
  // E8M0 scales are powers of two: off by up to sqrt(2).
  const double tolerance = tensor.dtype == DType::kMXFP4 ? 0.42 : tensor.dtype == DType::kNVFP4 ? 0.15 : 0.03;
  EXPECT_NEAR(std::sqrt(squares / n) / sigma, 1, tolerance);
}

INSTANTIATE_TEST_SUITE_P(Types, SynthTypeTest,
                         testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                         DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS,
                                         DType::kMXFP4, DType::kNVFP4),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

// The gains give a model of many layers logits, attention and routing that are neither flat nor decided by one value.
TEST(Synth, SomeRolesAreLarger) {
  const auto spread_of = [](const std::string& name) {
    const TensorInfo tensor{.name = name, .dtype = DType::kF32, .shape = {64, 1024}, .n_bytes = 64 * 1024 * 4};
    std::vector<float> y(64 * 1024);
    synthesise_tensor(tensor, 1, 0, std::as_writable_bytes(std::span(y)));
    double squares = 0;
    for (const float v : y) squares += static_cast<double>(v) * v;
    return std::sqrt(squares / 64 / 1024) * 32;   // in units of 1 / sqrt(1024)
  };
  // 65,536 uniform values: their root mean square is off by about 0.5 / sqrt(65536) = 0.2 %.
  EXPECT_NEAR(spread_of("output.weight"), 4, 0.04);
  EXPECT_NEAR(spread_of("token_embd.weight"), 4, 0.04);
  EXPECT_NEAR(spread_of("blk.0.ffn_gate_inp.weight"), 2, 0.02);
  EXPECT_NEAR(spread_of("blk.0.attn_q.weight") * spread_of("blk.0.attn_k.weight"), 2, 0.04);
  EXPECT_NEAR(spread_of("blk.0.attn_output.weight"), 1, 0.01);
  EXPECT_NEAR(spread_of("blk.0.attn_q_norm.weight") * spread_of("blk.0.attn_k_norm.weight") / 1024, 2, 0.04);
}

TEST(Synth, NormsAreNearOne) {
  const TensorInfo tensor{.name = "blk.0.attn_norm.weight", .dtype = DType::kF32, .shape = {256}, .n_bytes = 1024};
  std::vector<float> y(256);
  synthesise_tensor(tensor, 1, 0, std::as_writable_bytes(std::span(y)));
  for (const float v : y) EXPECT_NEAR(v, 1, 0.1);
}

TEST(Synth, SaysWhatStandsInTheWay) {
  const ShapeFile shape = parse_shape(kTiny, "tiny");
  const Error no_folder = error_of([&] { write_synthetic_gguf(shape, {.path = "/nonexistent/x.gguf"}); });
  EXPECT_EQ(no_folder.kind(), ErrorKind::kIo);
  EXPECT_EQ(no_folder.message(), "/nonexistent/x.gguf: can't create the file: No such file or directory");
  const TempDir dir;
  const std::string huge = with("expert_feed_forward_length = 96", "expert_feed_forward_length = 400000000");   // some 3 TB
  const std::string path = (dir.path() / "x.gguf").string();
  const Error no_room = error_of([&] { write_synthetic_gguf(parse_shape(huge, "huge"), {.path = path}); });
  EXPECT_EQ(no_room.kind(), ErrorKind::kIo);
  EXPECT_NE(no_room.message().find("not enough room: needs "), std::string::npos) << no_room.message();
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace sj::synth_test
