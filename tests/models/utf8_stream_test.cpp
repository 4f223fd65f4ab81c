#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "models/tokenizer.h"
#include "models/unicode.h"

namespace sj::utf8_stream_test {
namespace {

const std::string kBad = "\xEF\xBF\xBD";   // U+FFFD

std::string stream(const std::vector<std::string>& parts) {
  Utf8Stream s;
  std::string out;
  for (const std::string& part : parts) {
    const std::string text = s.push(part);
    EXPECT_TRUE(is_valid_utf8(text));
    out += text;
  }
  return out + s.finish();
}

/// Every way to cut `text` into consecutive parts.
std::vector<std::vector<std::string>> all_splits(const std::string& text) {
  std::vector<std::vector<std::string>> splits;
  for (unsigned cuts = 0; cuts < 1u << (text.size() - 1); ++cuts) {
    std::vector<std::string> parts(1);
    for (size_t i = 0; i < text.size(); ++i) {
      parts.back() += text[i];
      if (cuts >> i & 1) parts.emplace_back();
    }
    splits.push_back(parts);
  }
  return splits;
}

TEST(Utf8Stream, JoinsCharactersOfEveryLengthCutAnywhere) {
  const std::string text = "aé字😀b";   // 1, 2, 3, 4 and 1 bytes
  for (const auto& parts : all_splits(text)) ASSERT_EQ(stream(parts), text);
}

TEST(Utf8Stream, ReplacesIllegalBytesAlikeHoweverTheyAreCut) {
  const std::string cases[] = {"\x80", "a\xFF" "b", "\xC0\x80", "\xC3(", "\xED\xA0\x80", "\xE0\x80\xAF", "\xF4\x90\x80\x80", "\xF0\x9F\x98", "\xF0\x9F" "a",
                               "\xE2\x82\xE2\x82\xAC", "\xF8\x88\x80\x80\x80", "\xC3\xC3\xA9"};
  for (const std::string& text : cases) {
    for (const auto& parts : all_splits(text)) ASSERT_EQ(stream(parts), to_valid_utf8(text)) << testing::PrintToString(text);
  }
}

TEST(Utf8Stream, OneReplacementForEachMaximalPrefix) {
  EXPECT_EQ(stream({"\xE2\x82"}), kBad);                                     // unfinished at the end: one
  EXPECT_EQ(stream({"\xE2\x82", "a"}), kBad + "a");
  EXPECT_EQ(stream({"\xED\xA0\x80"}), kBad + kBad + kBad);                   // a surrogate's second byte is illegal already
  EXPECT_EQ(stream({"\xF0\x9F\x98\xC3\xA9"}), kBad + "é");
}

TEST(Utf8Stream, HoldsBackOnlyWhatMayBecomeACharacter) {
  Utf8Stream s;
  EXPECT_EQ(s.push("x\xF0\x9F\x98"), "x");
  EXPECT_EQ(s.push("\x80y"), "😀y");
  EXPECT_EQ(s.push("\xC3"), "");
  EXPECT_EQ(s.push("\xC3"), kBad);          // the first can't be completed any more
  EXPECT_EQ(s.push("\xA9"), "é");
  EXPECT_EQ(s.push("\xE0\x80"), kBad + kBad);   // E0 80 is overlong: nothing to wait for
  EXPECT_EQ(s.finish(), "");
  EXPECT_EQ(s.push("\xE5"), "");
  EXPECT_EQ(s.finish(), kBad);
  EXPECT_EQ(s.finish(), "");
}

TEST(Utf8Stream, RandomBytesStayValidAndMatchTheWholeText) {
  std::mt19937 rng(1);
  const std::string pool[] = {"a", "é", "字", "😀", "\xC3", "\xE5", "\xE5\xAD", "\xF0\x9F", "\x80", "\xBF", "\xFF", "\xED\xA0", "\xF4\x90"};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (unsigned i = 0; i < rng() % 12; ++i) text += pool[rng() % std::size(pool)];
    std::vector<std::string> parts(1);
    for (const char c : text) {
      parts.back() += c;
      if (rng() % 2 == 0) parts.emplace_back();
    }
    ASSERT_EQ(stream(parts), to_valid_utf8(text)) << testing::PrintToString(text);
  }
}

TEST(Unicode, ComposesCanonically) {
  EXPECT_EQ(to_nfc("e\u0301"), "é");
  EXPECT_EQ(to_nfc("\u212B"), "Å");
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C");                      // excluded from composition
  EXPECT_EQ(to_nfc("a\u0301\u0323"), "\u1EA1\u0301");               // marks are put in order first
  EXPECT_EQ(to_nfc("\u1100\u1161\u11A8"), "각");
  EXPECT_EQ(to_nfc(std::string("a\0b\u0301", 5)), std::string("a\0b\u0301", 5));
}

TEST(Unicode, SortsALongRunOfMarksInReasonableTime) {
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";   // classes 230 and 220, alternating
  const std::string composed = to_nfc(text);   // quadratic sorting would take minutes
  EXPECT_EQ(composed.substr(0, 3), "\u1EA1");
  EXPECT_TRUE(is_valid_utf8(composed));
}

}  // namespace
}  // namespace sj::utf8_stream_test
