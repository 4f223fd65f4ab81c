#include "tools/cli.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "jit/base/error.h"

namespace sj::cli_test {
namespace {

// Runs `f`, which must throw Error of `kind`; returns its message.
template <class F>
std::string error_of(ErrorKind kind, F f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(kind_name(error.kind()), kind_name(kind));
    return error.message();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

int run(std::initializer_list<const char*> args) {
  std::vector<const char*> argv = {"sparkjit"};
  argv.insert(argv.end(), args);
  return run_cli(static_cast<int>(argv.size()), argv.data(), std::chrono::steady_clock::now());
}

TEST(ParseInteger, AcceptsTheWholeRange) {
  EXPECT_EQ(parse_integer("--x", "-3", -3, 7), -3);
  EXPECT_EQ(parse_integer("--x", "7", -3, 7), 7);
  EXPECT_EQ(parse_integer("--x", "+7", -3, 7), 7);
}

TEST(ParseInteger, NamesFlagValueAndRange) {
  for (const char* text : {"8", "-4", "", "abc", "1.5", "1 ", "99999999999999999999", "0x1"})
    EXPECT_EQ(error_of(ErrorKind::kUsage, [&] { parse_integer("--ctx", text, -3, 7); }),
              "--ctx: '" + std::string(text) + "' is not a whole number from -3 to 7");
}

TEST(ParseReal, AcceptsTheWholeRange) {
  EXPECT_EQ(parse_real("--x", "0", 0, 1), 0);
  EXPECT_EQ(parse_real("--x", "1e-1", 0, 1), 0.1);
  EXPECT_EQ(parse_real("--x", "1", 0, 1), 1);
}

TEST(ParseReal, NamesFlagValueAndRange) {
  for (const char* text : {"1.01", "-0.5", "nan", "inf", "", "0,5", "1f"})
    EXPECT_EQ(error_of(ErrorKind::kUsage, [&] { parse_real("--top-p", text, 0, 1); }),
              "--top-p: '" + std::string(text) + "' is not a number from 0 to 1");
}

TEST(ParseIntegerList, KeepsOrderAndRepeats) {
  EXPECT_EQ(parse_integer_list("-d", "128,4,128", 0, 200), (std::vector<uint32_t>{128, 4, 128}));
  EXPECT_EQ(parse_integer_list("-d", "7", 0, 200), std::vector<uint32_t>{7});
}

TEST(ParseIntegerList, RefusesEmptyAndBadItems) {
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { parse_integer_list("--depth", "1,,2", 0, 9); }),
            "--depth: '' is not a whole number from 0 to 9");
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { parse_integer_list("--depth", "", 0, 9); }),
            "--depth: '' is not a whole number from 0 to 9");
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { parse_integer_list("--depth", "1,10", 0, 9); }),
            "--depth: '10' is not a whole number from 0 to 9");
}

TEST(ParseDevice, AcceptsTheFourForms) {
  for (const char* text : {"auto", "cpu", "cuda", "cuda:0", "cuda:12"}) EXPECT_EQ(parse_device("--device", text), text);
}

TEST(ParseDevice, RefusesEverythingElse) {
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:1x", "CUDA"})
    EXPECT_EQ(error_of(ErrorKind::kUsage, [&] { parse_device("--device", text); }),
              "--device: '" + std::string(text) + "' is not one of auto, cpu, cuda, cuda:N");
}

TEST(RunCli, RefusesMissingAndUnknownVerbs) {
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { run({}); }), "A subcommand is required; see `sparkjit --help`");
  EXPECT_NE(error_of(ErrorKind::kUsage, [] { run({"rnu"}); }).find("rnu"), std::string::npos);
}

TEST(RunCli, RefusesMissingModelAndUnknownFlags) {
  EXPECT_NE(error_of(ErrorKind::kUsage, [] { run({"run", "-p", "x"}); }).find("--model is required"), std::string::npos);
  EXPECT_NE(error_of(ErrorKind::kUsage, [] { run({"run", "-m", "x", "--tempo", "1"}); }).find("--tempo"), std::string::npos);
}

TEST(RunCli, RefusesBadValuesBeforeTheModelIsOpened) {
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { run({"run", "-m", "none.gguf", "-p", "x", "--temp", "-1"}); }),
            "--temp: '-1' is not a number from 0 to 100");
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { run({"bench", "-m", "none.gguf", "-o", "xml"}); }),
            "--output: 'xml' is not one of md, json, csv");
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { run({"score", "-m", "none.gguf", "--text", "x", "--chunks", "0"}); }),
            "--chunks: '0' is not a whole number from 1 to 16777216");
  EXPECT_EQ(error_of(ErrorKind::kUsage, [] { run({"run", "-m", "none.gguf"}); }),
            "run: no text to continue; give --prompt or --file");
}

TEST(ReadTokenFile, RefusesPartsOfAnId) {
  const std::string path = (std::filesystem::path(testing::TempDir()) / "sj_cli_test_tokens").string();
  std::ofstream(path, std::ios::binary) << "12345";
  EXPECT_EQ(error_of(ErrorKind::kUsage, [&] { read_token_file(path); }), path + ": 5 bytes are not a whole number of int32 token ids");
  std::ofstream(path, std::ios::binary) << std::string("\x01\0\0\0\xff\xff\xff\xff", 8);
  EXPECT_EQ(read_token_file(path), (std::vector<TokenId>{1, -1}));
  std::remove(path.c_str());
  EXPECT_EQ(error_of(ErrorKind::kIo, [&] { read_token_file(path); }), path + ": can't open: No such file or directory");
}

}  // namespace
}  // namespace sj::cli_test
