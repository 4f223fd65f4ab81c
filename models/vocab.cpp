#include "models/vocab.h"

#include <cstring>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";

/// Texts that end a generation wherever they are in a vocabulary: a file's eos id alone is seldom complete.
constexpr std::string_view kEogTexts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
};

Error bad(const GgufFile& file, std::string_view key, std::string_view what) {
  return Error(ErrorKind::kBadModel, fmt::format("{}: {}", key, what), fmt::format("file {}", file.path()));
}

VocabModel parse_model(const GgufFile& file) {
  const std::string_view name = file.require_string("tokenizer.ggml.model");
  if (name == "llama") return VocabModel::kSpm;
  if (name == "gpt2") return VocabModel::kByteBpe;
  if (name == "gemma4") return VocabModel::kGemmaBpe;
  throw Error(ErrorKind::kUnsupported,
              fmt::format("tokenizer model \"{}\" (tokenizer.ggml.model): expected \"gpt2\", \"llama\" or \"gemma4\"", name),
              fmt::format("file {}", file.path()));
}

}  // namespace

std::optional<uint8_t> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  uint8_t value = 0;
  for (const char c : text.substr(3, 2)) {
    int digit = 0;
    if (c >= '0' && c <= '9') digit = c - '0';
    else if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
    else if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
    else return std::nullopt;
    value = static_cast<uint8_t>(value * 16 + digit);
  }
  return value;
}

Vocab Vocab::from_gguf(const GgufFile& file) {
  Vocab v;
  v.model_ = parse_model(file);
  v.read_tables(file);
  v.read_special_ids(file);
  v.find_bytes(file);
  v.find_eog(file);
  return v;
}

void Vocab::read_tables(const GgufFile& file) {
  const std::span<const std::string_view> tokens = file.require_strings(kTokensKey);
  if (tokens.empty()) throw bad(file, kTokensKey, "expected at least one token, found an empty array");
  if (tokens.size() > INT32_MAX) throw bad(file, kTokensKey, fmt::format("expected at most 2^31 - 1 tokens, found {}", tokens.size()));
  size_t n_bytes = 0;
  for (const std::string_view text : tokens) n_bytes += text.size();
  characters_.resize(n_bytes);
  texts_.reserve(tokens.size());
  index_ = NameIndex(tokens.size());
  char* to = characters_.data();
  for (const std::string_view text : tokens) {
    if (!text.empty()) std::memcpy(to, text.data(), text.size());
    texts_.emplace_back(to, text.size());
    to += text.size();
    index_.insert(texts_.back(), static_cast<uint32_t>(texts_.size() - 1), [&](uint32_t i) { return texts_[i]; });
  }

  types_.assign(texts_.size(), TokenType::kNormal);
  if (file.find(kTypesKey) != nullptr) {
    const std::vector<int32_t> types = file.get_i32s(kTypesKey);
    if (types.size() != texts_.size()) {
      throw bad(file, kTypesKey, fmt::format("expected one type a token ({}), found {}", texts_.size(), types.size()));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] < 0 || types[i] > 6) throw bad(file, kTypesKey, fmt::format("token {}: expected a type in 0..6, found {}", i, types[i]));
      types_[i] = static_cast<TokenType>(types[i]);
    }
  }

  scores_.assign(texts_.size(), 0.0f);
  if (file.find(kScoresKey) != nullptr) {
    std::vector<float> scores = file.get_f32s(kScoresKey);
    if (scores.size() != texts_.size()) {
      throw bad(file, kScoresKey, fmt::format("expected one score a token ({}), found {}", texts_.size(), scores.size()));
    }
    scores_ = std::move(scores);
    has_scores_ = true;
  }
  if (model_ == VocabModel::kSpm && !has_scores_) throw bad(file, kScoresKey, "missing, but a \"llama\" tokenizer merges by score");
}

std::optional<TokenId> Vocab::find(std::string_view text) const {
  const auto i = index_.find(text, [&](uint32_t idx) { return texts_[idx]; });
  return i ? std::optional(static_cast<TokenId>(*i)) : std::nullopt;
}

std::optional<TokenId> Vocab::read_id(const GgufFile& file, std::string_view name, std::optional<TokenId> fallback) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  if (file.find(key) == nullptr) return fallback && static_cast<uint32_t>(*fallback) < n_tokens() ? fallback : std::nullopt;
  const uint32_t id = file.get_u32(key, 0);
  if (id < n_tokens()) return static_cast<TokenId>(id);
  warnings.push_back(fmt::format("{} = {} is ignored: the vocabulary has {} tokens", key, id, n_tokens()));
  return std::nullopt;
}

void Vocab::read_special_ids(const GgufFile& file) {
  // Without keys, BPE files get no default: the traditional one (11) is a special token in GPT-2-like vocabularies only.
  const bool is_spm = model_ == VocabModel::kSpm;
  const auto fallback = [&](TokenId id) { return is_spm ? std::optional(id) : std::nullopt; };
  bos = read_id(file, "bos", fallback(1));
  eos = read_id(file, "eos", fallback(2));
  unknown = read_id(file, "unknown", fallback(0));
}

void Vocab::find_bytes(const GgufFile& file) {
  for (TokenId id = 0; id < static_cast<TokenId>(n_tokens()); ++id) {
    if (type(id) == TokenType::kByte && !parse_byte_token(text(id))) {
      throw bad(file, kTokensKey, fmt::format("token {} has type BYTE: expected a text like <0x0A>, found {:?}", id, text(id)));
    }
  }
  if (model_ == VocabModel::kByteBpe) return;   // its alphabet is the bytes themselves
  for (unsigned b = 0; b < 256; ++b) {
    bytes_[b] = find(fmt::format("<0x{:02X}>", b));
    if (bytes_[b]) continue;
    const char raw = static_cast<char>(b);
    bytes_[b] = find(std::string_view(&raw, 1));
  }
}

bool Vocab::is_plain_text(const GgufFile& file, TokenId id) const {
  // SentencePiece vocabularies with HTML tags hold the closing tag of strike-through, and another token ends a text.
  if (type(id) == TokenType::kUserDefined) return text(id) == "</s>" && eos && *eos != id;
  if (type(id) != TokenType::kNormal || model_ == VocabModel::kSpm) return false;
  const GgufArray* merges = file.find_array("tokenizer.ggml.merges");
  if (merges == nullptr) return false;
  const std::string_view whole = text(id);
  for (const std::string_view line : merges->strings) {
    if (line.size() != whole.size() + 1) continue;
    const size_t space = line.find(' ', 1);
    if (space != std::string_view::npos && whole.starts_with(line.substr(0, space)) && whole.ends_with(line.substr(space + 1))) return true;
  }
  return false;
}

void Vocab::find_eog(const GgufFile& file) {
  is_eog_.assign(n_tokens(), false);
  const auto mark = [&](std::optional<TokenId> id) {
    if (id) is_eog_[static_cast<size_t>(*id)] = true;
  };
  mark(eos);
  for (const std::string_view name : {"eot", "eom", "fim_pad", "fim_rep", "fim_sep"}) mark(read_id(file, name, std::nullopt));
  for (const std::string_view text : kEogTexts) {
    const auto id = find(text);
    if (!id || is_plain_text(file, *id)) continue;
    mark(id);
    types_[static_cast<size_t>(*id)] = TokenType::kControl;
  }
  const auto unmark = [&](std::string_view text) {
    if (const auto id = find(text); id && id != eos) is_eog_[static_cast<size_t>(*id)] = false;
  };
  // Harmony: a message ends with <|end|>, a turn with <|return|> or <|call|>; the frame must be visible to its parser.
  if ((find("<|return|>") && find("<|call|>")) || (find("<|calls|>") && find("<|flush|>"))) {
    unmark("<|end|>");
    for (const std::string_view text : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
      if (const auto id = find(text)) types_[static_cast<size_t>(*id)] = TokenType::kUserDefined;
    }
  }
  // Where tools answer through <|tool_response>, </s> is the closing tag of HTML's strike-through.
  if (find("<|tool_response>")) unmark("</s>");
}

}  // namespace sj
