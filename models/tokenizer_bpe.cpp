// BPE tokenizers: byte-level (GPT-2's alphabet of 256 printable characters) and over UTF-8 characters (Gemma 4).
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/bpe_merges.h"
#include "models/fragment_encoder.h"
#include "models/pretokenizer.h"
#include "models/unicode.h"

namespace sj {
namespace {

constexpr SymbolId kNoSymbol = ~SymbolId{0};

/// Printable bytes stand for themselves; the others, in order, for U+0100, U+0101, ...
std::array<char32_t, 256> byte_alphabet() {
  std::array<char32_t, 256> of_byte{};
  char32_t next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool is_printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    of_byte[b] = is_printable ? b : next++;
  }
  return of_byte;
}

/// Vocabularies without all 256 bytes exist (SmolLM2 lacks some control characters). Such a byte is left out, as
/// by the libraries the models were trained with: those files name an end mark as their unknown token.
class ByteBpeEncoder final : public FragmentEncoder {
 public:
  ByteBpeEncoder(const GgufFile& file, const Vocab& vocab, const PretokenizerSpec& spec)
      : vocab_(vocab), merges_(file, vocab), pretokenizer_(spec), ignores_merges_(spec.ignores_merges), composes_(spec.composes) {
    const std::array<char32_t, 256> alphabet = byte_alphabet();
    byte_of_.fill(-1);
    for (unsigned b = 0; b < 256; ++b) {
      byte_of_[alphabet[b]] = static_cast<int16_t>(b);
      append_utf8(mapped_[b], alphabet[b]);
      symbols_[b] = merges_.find_symbol(mapped_[b]).value_or(kNoSymbol);
    }
  }

  void encode(std::string_view fragment, bool, std::vector<TokenId>& out) const override {
    std::string composed;
    if (composes_) fragment = composed = to_nfc(fragment);
    std::vector<std::string_view> pieces;
    pretokenizer_.split(fragment, pieces);
    std::vector<SymbolId> word;
    BpeMerges::Workspace workspace;
    for (const std::string_view piece : pieces) {
      if (ignores_merges_) {
        if (const auto id = find_whole(piece)) {
          out.push_back(*id);
          continue;
        }
      }
      word.clear();
      for (const char c : piece) {
        const SymbolId symbol = symbols_[static_cast<uint8_t>(c)];
        if (symbol != kNoSymbol) word.push_back(symbol);
      }
      merges_.merge(word, workspace);
      for (const SymbolId symbol : word) emit(symbol, out);
    }
  }

  /// Added tokens may hold raw text, so a character outside the alphabet stands for itself.
  std::string decode(std::string_view token_text) const override {
    std::string out;
    for (size_t pos = 0; pos < token_text.size();) {
      const Utf8Char c = decode_utf8(token_text, pos);
      const int16_t byte = c.is_valid && c.code_point < byte_of_.size() ? byte_of_[c.code_point] : int16_t{-1};
      if (byte >= 0) out.push_back(static_cast<char>(static_cast<uint8_t>(byte)));
      else out.append(token_text, pos, c.n_bytes);
      pos += c.n_bytes;
    }
    return out;
  }

 private:
  std::optional<TokenId> find_whole(std::string_view piece) const {
    std::string mapped;
    for (const char c : piece) mapped += mapped_[static_cast<uint8_t>(c)];
    return vocab_.find(mapped);
  }

  /// A merge's result that is no token (never in a sound file) falls back to its characters.
  void emit(SymbolId symbol, std::vector<TokenId>& out) const {
    if (merges_.is_token(symbol)) {
      out.push_back(static_cast<TokenId>(symbol));
      return;
    }
    const std::string_view text = merges_.symbol_text(symbol);
    for (size_t pos = 0; pos < text.size();) {
      const size_t n_bytes = decode_utf8(text, pos).n_bytes;
      if (const auto id = vocab_.find(text.substr(pos, n_bytes))) out.push_back(*id);
      pos += n_bytes;
    }
  }

  const Vocab& vocab_;
  BpeMerges merges_;
  Pretokenizer pretokenizer_;
  bool ignores_merges_, composes_;
  std::array<SymbolId, 256> symbols_;
  std::array<std::string, 256> mapped_;
  std::array<int16_t, 0x144> byte_of_;   ///< code point of the alphabet -> byte; the last one is U+0143
};

class GemmaBpeEncoder final : public FragmentEncoder {
 public:
  GemmaBpeEncoder(const GgufFile& file, const Vocab& vocab) : vocab_(vocab), merges_(file, vocab) {}

  void encode(std::string_view fragment, bool, std::vector<TokenId>& out) const override {
    std::vector<SymbolId> word;
    BpeMerges::Workspace workspace;
    std::string marked;
    for (size_t pos = 0; pos < fragment.size();) {
      const bool is_newlines = fragment[pos] == '\n';
      const size_t end = std::min(is_newlines ? fragment.find_first_not_of('\n', pos) : fragment.find('\n', pos), fragment.size());
      const std::string_view piece = fragment.substr(pos, end - pos);
      pos = end;
      if (is_newlines) {
        if (const auto id = vocab_.find(piece)) {
          out.push_back(*id);
          continue;
        }
      }
      marked.clear();
      for (const char c : piece) c == ' ' ? marked.append(kSpaceMark) : marked.append(1, c);
      encode_piece(marked, word, workspace, out);
    }
  }

  std::string decode(std::string_view token_text) const override {
    std::string out;
    for (size_t pos = 0; pos < token_text.size();) {
      const bool is_mark = token_text.substr(pos).starts_with(kSpaceMark);
      out.push_back(is_mark ? ' ' : token_text[pos]);
      pos += is_mark ? kSpaceMark.size() : 1;
    }
    return out;
  }

 private:
  /// A character that is no symbol takes no part in merging: what is between two such characters merges on its own.
  void encode_piece(std::string_view text, std::vector<SymbolId>& word, BpeMerges::Workspace& ws, std::vector<TokenId>& out) const {
    word.clear();
    const auto flush = [&] {
      merges_.merge(word, ws);
      for (const SymbolId s : word) merges_.is_token(s) ? out.push_back(static_cast<TokenId>(s)) : emit_bytes(merges_.symbol_text(s), out);
      word.clear();
    };
    for (size_t pos = 0; pos < text.size();) {
      const std::string_view character = text.substr(pos, decode_utf8(text, pos).n_bytes);
      pos += character.size();
      if (const auto symbol = merges_.find_symbol(character)) {
        word.push_back(*symbol);
      } else {
        flush();
        emit_bytes(character, out);
      }
    }
    flush();
  }

  void emit_bytes(std::string_view text, std::vector<TokenId>& out) const {
    for (const char c : text) {
      const auto id = vocab_.find_byte(static_cast<uint8_t>(c));
      if (id) out.push_back(*id);
      else if (vocab_.unknown) out.push_back(*vocab_.unknown);
    }
  }

  const Vocab& vocab_;
  BpeMerges merges_;
};

}  // namespace

std::unique_ptr<FragmentEncoder> make_bpe_encoder(const GgufFile& file, Vocab& vocab) {
  if (vocab.model() == VocabModel::kGemmaBpe) {
    vocab.adds_bos = true;   // whatever the file's key says: the model needs it, and published files have it wrong
    return std::make_unique<GemmaBpeEncoder>(file, vocab);
  }
  constexpr std::string_view kKey = "tokenizer.ggml.pre";
  if (file.find(kKey) == nullptr) vocab.warnings.push_back(fmt::format("{} is missing: \"default\" is used, which may split words wrongly", kKey));
  PretokenizerSpec spec;
  try {
    spec = require_pretokenizer(file.get_string(kKey, "default"));
  } catch (const Error& e) {
    throw e.with_frame(fmt::format("file {}", file.path()));
  }
  if (file.find("tokenizer.ggml.add_bos_token") == nullptr) vocab.adds_bos = spec.adds_bos;
  return std::make_unique<ByteBpeEncoder>(file, vocab, spec);
}

}  // namespace sj
