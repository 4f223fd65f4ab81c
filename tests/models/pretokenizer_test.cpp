#include "models/pretokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "jit/base/error.h"

namespace sj::pretokenizer_test {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view name, const std::string& text) {
  std::vector<std::string_view> views;
  Pretokenizer(require_pretokenizer(name)).split(text, views);
  return {views.begin(), views.end()};
}

TEST(Pretokenizer, SplitsLikeTheSpecificationsSpotVectors) {
  EXPECT_EQ(split("qwen2", "Hello  world"), (Pieces{"Hello", " ", " world"}));
  EXPECT_EQ(split("qwen2", "a\n\n b"), (Pieces{"a", "\n\n", " b"}));
  EXPECT_EQ(split("qwen2", "  \n x"), (Pieces{"  \n", " x"}));
  EXPECT_EQ(split("qwen2", "I'LL"), (Pieces{"I", "'LL"}));
  EXPECT_EQ(split("qwen2", "123"), (Pieces{"1", "2", "3"}));
  EXPECT_EQ(split("qwen2", ", ok"), (Pieces{",", " ok"}));
  EXPECT_EQ(split("qwen2", "!!\n\n"), (Pieces{"!!\n\n"}));
}

TEST(Pretokenizer, KnowsTheDifferencesBetweenFamilies) {
  EXPECT_EQ(split("smollm", "a 12"), (Pieces{"a", " ", "1", "2"}));          // digits never join a space
  EXPECT_EQ(split("gpt-2", "a 12"), (Pieces{"a", " 12"}));
  EXPECT_EQ(split("llama-bpe", "12345"), (Pieces{"123", "45"}));
  EXPECT_EQ(split("gpt-2", "I'LL"), (Pieces{"I", "'", "LL"}));               // case-sensitive contractions
  EXPECT_EQ(split("gpt-2", "a  "), (Pieces{"a", "  "}));                     // a gap at the end is a piece
  EXPECT_EQ(split("gpt-4o", "HTTPServer's"), (Pieces{"HTTPServer's"}));
  EXPECT_EQ(split("gpt-4o", "camelCase"), (Pieces{"camel", "Case"}));
  EXPECT_EQ(split("tekken", "camelCase's 12"), (Pieces{"camel", "Case", "'s", " ", "1", "2"}));
  EXPECT_EQ(split("deepseek-v3", "1234漢字abc"), (Pieces{"123", "4", "漢字", "abc"}));
  EXPECT_EQ(split("falcon", "a`b1234"), (Pieces{"a", "`", "b", "123", "4"}));
  EXPECT_EQ(split("default", "a`b1234"), (Pieces{"a", "`", "b", "123", "4"}));
  EXPECT_EQ(split("qwen35", "क्या"), (Pieces{"क्या"}));                        // marks join words
  EXPECT_EQ(split("qwen2", "क्या"), (Pieces{"क", "्य", "ा"}));                  // here a mark only leads the next one
  EXPECT_EQ(split("laguna", "a\n\nb"), (Pieces{"a", "\n\n", "b"}));
  EXPECT_EQ(split("viking", "ab 12"), (Pieces{"ab", " ", "1", "2"}));
}

TEST(Pretokenizer, TakesWhiteSpaceAsUnicodeDefinesIt) {
  EXPECT_EQ(split("qwen2", "x\u0085\u0085z"), (Pieces{"x", "\u0085", "\u0085z"}));   // NEL is a space
  EXPECT_EQ(split("qwen2", "x\u180Ez"), (Pieces{"x", "\u180Ez"}));                   // U+180E is none: it leads a word like any sign
  EXPECT_EQ(split("gpt-2", "x\u180Ez"), (Pieces{"x", "\u180E", "z"}));
  EXPECT_EQ(split("gpt-2", "x\u3000\u3000z"), (Pieces{"x", "\u3000", "\u3000", "z"}));
}

TEST(Pretokenizer, EveryPatternCompilesAndLosesNothing) {
  const std::string text = "Don't\tstop\r\n  12345 ab-cd 漢字かな e\u0301 😀\n\n" + std::string(1, '\0') + "x 'S ...";
  for (const std::string_view name : pretokenizer_names()) {
    std::string joined;
    for (const std::string& piece : split(name, text)) {
      EXPECT_FALSE(piece.empty()) << name;
      joined += piece;
    }
    EXPECT_EQ(joined, text) << name;
  }
  EXPECT_GT(pretokenizer_names().size(), 50u);
  EXPECT_TRUE(split("qwen2", "").empty());
}

TEST(Pretokenizer, RefusesUnknownNamesByName) {
  try {
    require_pretokenizer("kimi-k2");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(e.message().find("pre-tokenizer \"kimi-k2\" (tokenizer.ggml.pre) is not one of the"), std::string::npos) << e.message();
  }
}

TEST(Pretokenizer, IsLinearInLongRuns) {
  for (const std::string_view name : pretokenizer_names()) {
    const Pretokenizer p(require_pretokenizer(name));
    for (const std::string_view unit : {" ", "a", "A", "1", "\n", "!", "é", " \n", "'"}) {
      std::string text;
      while (text.size() < 50000) text += unit;
      std::vector<std::string_view> pieces;
      const auto start = std::chrono::steady_clock::now();
      p.split(text, pieces);
      // A quadratic pattern would take 1e9 steps, each of many instructions. The bound allows for a sanitised build on a busy machine.
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5)) << name << " " << testing::PrintToString(unit);
    }
  }
}

}  // namespace
}  // namespace sj::pretokenizer_test
