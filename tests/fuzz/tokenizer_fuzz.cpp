// libFuzzer target: text of any bytes through byte-level BPE and SentencePiece vocabularies, and through Utf8Stream.
// Build: clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined (tests/fuzz/CMakeLists.txt, with clang).
// Checks: every id is in the vocabulary, no control token without parse_special, text that the vocabulary can express
// comes back, streamed pieces are the whole text.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "models/tokenizer.h"
#include "models/unicode.h"
#include "tests/models/tokenizer_files.h"

namespace {

using namespace sj;

void require(bool ok, const char* what) {
  if (ok) return;
  fmt::print(stderr, "broken: {}\n", what);
  std::abort();
}

void add_controls(TinyVocab& v) {
  v.add("<|im_start|>", kControlToken);
  v.add("<s>", kControlToken);
  v.add("<think>", kUserToken);
  v.add("<think><think>", kUserToken);
  v.add("\n\n", kUserToken);
}

/// All 256 bytes and some merges.
Tokenizer make_bpe(const char* pre) {
  TinyVocab v;
  char32_t next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool is_printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    std::string text;
    append_utf8(text, is_printable ? static_cast<char32_t>(b) : next++);
    v.add(text);
  }
  for (const char* c : {"a", "b", "e", "t", "1", "Ġ", "Ã"}) {
    for (const char* d : {"a", "e", "©", "Ġ", "1"}) v.add_merge(c, d);
  }
  v.add_merge("Ġa", "te");
  v.add_merge("ae", "ae");
  add_controls(v);
  GgufWriter w;
  w.put_string("tokenizer.ggml.model", "gpt2");
  w.put_string("tokenizer.ggml.pre", pre);
  v.put(w, false);
  return Tokenizer::from_gguf(open_written(w));
}

Tokenizer make_spm() {
  TinyVocab v;
  v.add("<unk>", kUnknownToken);
  for (unsigned b = 0; b < 256; ++b) v.add(fmt::format("<0x{:02X}>", b), kByteToken);
  float score = -1;
  for (const char* t : {"▁", "a", "b", "ab", "▁a", "▁▁", "aba", "é", "bb", "bbb"}) v.add(t, kNormalToken, score -= 0.5f);
  v.types[v.types.size() - 2] = kUnusedToken;
  add_controls(v);
  v.scores.resize(v.tokens.size());
  GgufWriter w;
  w.put_string("tokenizer.ggml.model", "llama");
  w.put_bool("tokenizer.ggml.add_space_prefix", false);
  v.put(w, true);
  return Tokenizer::from_gguf(open_written(w));
}

void check(const Tokenizer& t, std::string_view text, const std::string& expected) {
  const std::vector<TokenId> plain = t.encode(text, {.add_special = false, .parse_special = false});
  for (const TokenId id : plain) {
    require(id >= 0 && static_cast<uint32_t>(id) < t.n_tokens(), "an id outside the vocabulary");
    require(!t.is_control(id), "a control token from text that may hold none");
  }
  require(t.decode(plain) == expected, "decoded text differs");
  require(t.decode(t.encode(text, {.add_special = false}), true) == expected, "decoded text with control tokens differs");
  Utf8Stream stream;
  std::string streamed;
  for (const TokenId id : plain) {
    const std::string part = stream.push(t.piece(id));
    require(is_valid_utf8(part), "a streamed part is not valid UTF-8");
    streamed += part;
  }
  require(streamed + stream.finish() == expected, "streamed text differs");
}

std::string with_marks_as_spaces(std::string text) {
  for (size_t at; (at = text.find("\xE2\x96\x81")) != std::string::npos;) text.replace(at, 3, " ");
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer gpt2 = make_bpe("gpt-2"), smollm = make_bpe("smollm"), gpt4o = make_bpe("gpt-4o"), deepseek = make_bpe("deepseek-v3"), qwen = make_bpe("qwen2"), spm = make_spm();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string valid = to_valid_utf8(text);
  require(is_valid_utf8(valid), "to_valid_utf8 left an illegal sequence");
  for (const Tokenizer* t : {&gpt2, &smollm, &gpt4o, &deepseek}) check(*t, text, valid);
  check(spm, text, with_marks_as_spaces(valid));
  const std::string composed = to_nfc(valid);
  require(to_nfc(composed) == composed, "composition is not stable");
  check(qwen, composed, composed);
  return 0;
}
