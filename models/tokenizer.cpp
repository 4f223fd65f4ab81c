#include "models/tokenizer.h"

#include <algorithm>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/fragment_encoder.h"
#include "models/special_tokens.h"
#include "models/unicode.h"
#include "models/vocab.h"

namespace sj {

namespace {

/// SentencePiece takes its space mark U+2581 in a text for a space, so both are matched and merged as one.
std::string with_spaces_for_marks(std::string_view text) {
  constexpr std::string_view kMark = "\xE2\x96\x81";
  std::string out;
  size_t pos = 0;
  for (size_t mark; (mark = text.find(kMark, pos)) != std::string_view::npos; pos = mark + kMark.size()) {
    out.append(text, pos, mark - pos);
    out += ' ';
  }
  return out.append(text, pos);
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(const GgufFile& file);
  void require_id(TokenId id) const;

  Vocab vocab;
  bool adds_space_prefix = false;
  SpecialTokens specials;
  std::unique_ptr<FragmentEncoder> encoder;   // refers to vocab
};

Tokenizer::Impl::Impl(const GgufFile& file) : vocab(Vocab::from_gguf(file)) {
  const bool is_spm = vocab.model() == VocabModel::kSpm;
  vocab.adds_bos = file.get_bool("tokenizer.ggml.add_bos_token", is_spm);
  vocab.adds_eos = file.get_bool("tokenizer.ggml.add_eos_token", false);
  if (is_spm) {
    adds_space_prefix = file.get_bool("tokenizer.ggml.add_space_prefix", true);
    encoder = make_spm_encoder(vocab, adds_space_prefix);
  } else {
    encoder = make_bpe_encoder(file, vocab);
  }
  for (TokenId id = 0; id < static_cast<TokenId>(vocab.n_tokens()); ++id) {
    const TokenType type = vocab.type(id);
    const bool is_on_request = type == TokenType::kControl || type == TokenType::kUnknown;
    if (type != TokenType::kUserDefined && !is_on_request) continue;
    if (is_spm) specials.add(with_spaces_for_marks(vocab.text(id)), id, is_on_request);
    else specials.add(vocab.text(id), id, is_on_request);
  }
}

void Tokenizer::Impl::require_id(TokenId id) const {
  if (id >= 0 && static_cast<uint32_t>(id) < vocab.n_tokens()) return;
  throw Error(ErrorKind::kUsage, fmt::format("token id {}: expected 0..{}", id, vocab.n_tokens() - 1));
}

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_gguf(const GgufFile& file) {
  Tokenizer t;
  t.impl_ = std::make_unique<Impl>(file);
  return t;
}

bool Tokenizer::has_vocab(const GgufFile& file) {
  const std::string_view model = file.get_string("tokenizer.ggml.model", "none");
  return model != "none" && model != "no_vocab";
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  const TextSpan span{text, options.parse_special};
  return encode_spans({&span, 1}, options.add_special);
}

std::vector<TokenId> Tokenizer::encode_spans(std::span<const TextSpan> spans, bool add_special) const {
  std::string text;
  struct Run { size_t end; bool parse_special; };
  std::vector<Run> runs;   // neighbours differ
  const bool is_spm = impl_->vocab.model() == VocabModel::kSpm;
  for (const TextSpan& span : spans) {
    const std::string valid = to_valid_utf8(span.text);
    text += is_spm ? with_spaces_for_marks(valid) : valid;
    if (!runs.empty() && runs.back().parse_special == span.parse_special) runs.back().end = text.size();
    else runs.push_back({text.size(), span.parse_special});
  }

  std::vector<TokenId> ids;
  const std::string_view all = text;
  size_t fragment_begin = 0;
  bool is_after_special = true;
  const auto flush_fragment = [&](size_t end) {
    if (end > fragment_begin) impl_->encoder->encode(all.substr(fragment_begin, end - fragment_begin), is_after_special, ids);
  };
  size_t pos = 0;
  for (const Run& run : runs) {
    while (pos < run.end) {
      const auto match = impl_->specials.longest_at(all.substr(pos), run.parse_special ? run.end - pos : 0);
      if (!match) {
        ++pos;
        continue;
      }
      flush_fragment(pos);
      ids.push_back(match->id);
      pos += match->n_bytes;
      fragment_begin = pos;
      is_after_special = true;
    }
  }
  flush_fragment(text.size());

  if (add_special) {
    const Vocab& v = impl_->vocab;
    if (v.adds_bos && v.bos && (ids.empty() || ids.front() != *v.bos)) ids.insert(ids.begin(), *v.bos);
    if (v.adds_eos && v.eos && (ids.empty() || ids.back() != *v.eos)) ids.push_back(*v.eos);
  }
  return ids;
}

std::string Tokenizer::piece(TokenId id, bool special) const {
  impl_->require_id(id);
  const std::string_view text = impl_->vocab.text(id);
  switch (impl_->vocab.type(id)) {
    case TokenType::kControl:
    case TokenType::kUnknown: return special ? std::string(text) : std::string();
    case TokenType::kUserDefined: return std::string(text);
    case TokenType::kByte: return std::string(1, static_cast<char>(*parse_byte_token(text)));
    case TokenType::kNormal: return impl_->encoder->decode(text);
    case TokenType::kUndefined:
    case TokenType::kUnused: break;
  }
  return {};
}

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool special) const {
  std::string out;
  bool is_start = true;   // nothing shown yet, so a space is the one that encode added
  for (const TokenId id : ids) {
    const std::string text = piece(id, special);
    const TokenType type = impl_->vocab.type(id);
    const bool is_plain = type == TokenType::kNormal || type == TokenType::kByte;   // only these hold encoded text
    const bool strips = is_start && impl_->adds_space_prefix && is_plain && text.starts_with(' ');
    out.append(text, strips ? 1 : 0);
    is_start = is_start && text.empty();
  }
  return out;
}

uint32_t Tokenizer::n_tokens() const { return impl_->vocab.n_tokens(); }
std::optional<TokenId> Tokenizer::bos() const { return impl_->vocab.bos; }
std::optional<TokenId> Tokenizer::eos() const { return impl_->vocab.eos; }
bool Tokenizer::adds_bos() const { return impl_->vocab.adds_bos && impl_->vocab.bos.has_value(); }
bool Tokenizer::adds_eos() const { return impl_->vocab.adds_eos && impl_->vocab.eos.has_value(); }

bool Tokenizer::is_control(TokenId id) const {
  impl_->require_id(id);
  return impl_->vocab.type(id) == TokenType::kControl || impl_->vocab.type(id) == TokenType::kUnknown;
}

bool Tokenizer::is_eog(TokenId id) const {
  impl_->require_id(id);
  return impl_->vocab.is_eog(id);
}

std::optional<TokenId> Tokenizer::find_token(std::string_view text) const { return impl_->vocab.find(text); }
const std::vector<std::string>& Tokenizer::warnings() const { return impl_->vocab.warnings; }

}  // namespace sj
