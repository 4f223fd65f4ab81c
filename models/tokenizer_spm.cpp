// SentencePiece BPE: adjacent symbols whose joined text is a token merge, highest score first; unknown characters
// become byte tokens.
#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/fragment_encoder.h"
#include "models/unicode.h"

namespace sj {
namespace {

/// Only these are text; the others (control, unknown, byte) never come from merging.
bool is_mergeable(TokenType type) {
  return type == TokenType::kNormal || type == TokenType::kUserDefined || type == TokenType::kUnused;
}

/// One fragment being merged.
class SpmWord {
 public:
  SpmWord(const Vocab& vocab, size_t max_token_bytes, std::string_view text) : vocab_(vocab), max_token_bytes_(max_token_bytes), text_(text) {
    for (size_t pos = 0; pos < text.size();) {
      const size_t n_bytes = decode_utf8(text, pos).n_bytes;
      const auto i = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({pos, n_bytes, i - 1, pos + n_bytes == text.size() ? -1 : i + 1});
      pos += n_bytes;
    }
  }

  void merge() {
    for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols_.size()); ++i) push(i);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), is_later);
      const Candidate c = heap_.back();
      heap_.pop_back();
      Symbol& left = at(c.left);
      // Stale when either side has grown or gone since.
      if (left.n_bytes == 0 || left.next < 0 || left.n_bytes + at(left.next).n_bytes != c.n_bytes) continue;
      Symbol& right = at(left.next);
      left.n_bytes = c.n_bytes;
      left.next = right.next;
      right.n_bytes = 0;
      if (left.next >= 0) at(left.next).previous = c.left;
      if (left.previous >= 0) push(left.previous);
      push(c.left);
    }
  }

  void emit(std::vector<TokenId>& out) const {
    for (int32_t i = symbols_.empty() ? -1 : 0; i >= 0; i = symbols_[static_cast<size_t>(i)].next) {
      const Symbol& s = symbols_[static_cast<size_t>(i)];
      emit_text(text_.substr(s.begin, s.n_bytes), out);
    }
  }

 private:
  struct Symbol { size_t begin, n_bytes; int32_t previous, next; };
  struct Candidate { float score; int32_t left; size_t n_bytes; };
  static bool is_later(const Candidate& a, const Candidate& b) { return a.score != b.score ? a.score < b.score : a.left > b.left; }
  Symbol& at(int32_t i) { return symbols_[static_cast<size_t>(i)]; }

  std::optional<TokenId> find_text(std::string_view text) const {
    if (text.size() > max_token_bytes_) return std::nullopt;
    const auto id = vocab_.find(text);
    return id && is_mergeable(vocab_.type(*id)) ? id : std::nullopt;
  }

  /// Offers the pair of `left` and its successor.
  void push(int32_t left) {
    const Symbol& a = at(left);
    if (a.next < 0) return;
    const size_t n_bytes = a.n_bytes + at(a.next).n_bytes;
    const std::string_view text = text_.substr(a.begin, n_bytes);
    const auto id = find_text(text);
    if (!id) return;
    heap_.push_back({vocab_.score(*id), left, n_bytes});
    std::push_heap(heap_.begin(), heap_.end(), is_later);
    if (vocab_.type(*id) == TokenType::kUnused) unused_parts_.insert_or_assign(text, a.n_bytes);
  }

  /// Unused tokens help to reach longer ones but are not emitted: they fall apart as they were joined.
  void emit_text(std::string_view text, std::vector<TokenId>& out) const {
    const auto id = find_text(text);
    const auto parts = id && vocab_.type(*id) == TokenType::kUnused ? unused_parts_.find(text) : unused_parts_.end();
    if (parts != unused_parts_.end()) {
      emit_text(text.substr(0, parts->second), out);
      emit_text(text.substr(parts->second), out);
    } else if (id) {
      out.push_back(*id);
    } else {
      emit_bytes(text, out);
    }
  }

  void emit_bytes(std::string_view text, std::vector<TokenId>& out) const {
    const size_t n_before = out.size();
    for (const char c : text) {
      const auto id = vocab_.find_byte(static_cast<uint8_t>(c));
      if (id) {
        out.push_back(*id);
        continue;
      }
      if (!vocab_.unknown) {
        throw Error(ErrorKind::kBadModel, fmt::format("the vocabulary has no token for byte 0x{:02X} and no unknown token", static_cast<uint8_t>(c)));
      }
      out.resize(n_before);   // one unknown token a character
      out.push_back(*vocab_.unknown);
      return;
    }
  }

  const Vocab& vocab_;
  size_t max_token_bytes_;
  std::string_view text_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::unordered_map<std::string_view, size_t> unused_parts_;   ///< text of an unused token -> bytes of its left part
};

class SpmEncoder final : public FragmentEncoder {
 public:
  SpmEncoder(const Vocab& vocab, bool adds_space_prefix) : vocab_(vocab), adds_space_prefix_(adds_space_prefix) {
    for (TokenId id = 0; id < static_cast<TokenId>(vocab.n_tokens()); ++id) max_token_bytes_ = std::max(max_token_bytes_, vocab.text(id).size());
  }

  void encode(std::string_view fragment, bool is_after_special, std::vector<TokenId>& out) const override {
    std::string text;
    text.reserve(fragment.size() * 3 / 2 + kSpaceMark.size());
    if (adds_space_prefix_ && is_after_special) text += kSpaceMark;
    for (const char c : fragment) c == ' ' ? text.append(kSpaceMark) : text.append(1, c);
    if (text.size() > INT32_MAX) throw Error(ErrorKind::kUnsupported, fmt::format("a text of {} bytes", text.size()));
    SpmWord word(vocab_, max_token_bytes_, text);
    word.merge();
    word.emit(out);
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
  const Vocab& vocab_;
  bool adds_space_prefix_;
  size_t max_token_bytes_ = 0;
};

}  // namespace

std::unique_ptr<FragmentEncoder> make_spm_encoder(const Vocab& vocab, bool adds_space_prefix) {
  return std::make_unique<SpmEncoder>(vocab, adds_space_prefix);
}

}  // namespace sj
