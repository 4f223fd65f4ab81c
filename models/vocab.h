// The token table of a GGUF file: texts, types, scores, special ids. In: metadata. Out: checked tables, used by the
// tokenizers only.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf_file.h"
#include "models/name_index.h"
#include "models/tokenizer.h"

namespace sj {

/// The value is the one in tokenizer.ggml.token_type.
enum class TokenType : uint8_t { kUndefined = 0, kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

enum class VocabModel { kSpm, kByteBpe, kGemmaBpe };

class Vocab {
 public:
  /// Throws kUnsupported (tokenizer model), kBadModel (missing or inconsistent tables).
  static Vocab from_gguf(const GgufFile& file);

  VocabModel model() const { return model_; }
  uint32_t n_tokens() const { return static_cast<uint32_t>(texts_.size()); }
  std::string_view text(TokenId id) const { return texts_[static_cast<size_t>(id)]; }
  TokenType type(TokenId id) const { return types_[static_cast<size_t>(id)]; }
  float score(TokenId id) const { return scores_[static_cast<size_t>(id)]; }   ///< 0 without a score table
  bool has_scores() const { return has_scores_; }
  /// The lowest id with this text.
  std::optional<TokenId> find(std::string_view text) const;
  /// The token of one raw byte in vocabularies with byte fallback: "<0x0A>", else the token whose text is that byte.
  std::optional<TokenId> find_byte(uint8_t byte) const { return bytes_[byte]; }

  std::optional<TokenId> bos, eos, unknown;
  bool adds_bos = false, adds_eos = false;
  bool is_eog(TokenId id) const { return is_eog_[static_cast<size_t>(id)]; }
  std::vector<std::string> warnings;

 private:
  Vocab() : index_(0) {}
  void read_tables(const GgufFile& file);
  void read_special_ids(const GgufFile& file);
  void find_bytes(const GgufFile& file);
  void find_eog(const GgufFile& file);
  /// True of a token that looks like an end mark but is what ordinary text becomes, as "</s>" in Qwen's vocabulary.
  bool is_plain_text(const GgufFile& file, TokenId id) const;
  std::optional<TokenId> read_id(const GgufFile& file, std::string_view name, std::optional<TokenId> fallback);

  VocabModel model_ = VocabModel::kSpm;
  std::vector<char> characters_;          ///< all texts; the views below point here and survive a move
  std::vector<std::string_view> texts_;
  std::vector<TokenType> types_;
  std::vector<float> scores_;
  bool has_scores_ = false;
  NameIndex index_;
  std::array<std::optional<TokenId>, 256> bytes_;
  std::vector<bool> is_eog_;
};

/// The value of "<0xHH>" with exactly two hex digits.
std::optional<uint8_t> parse_byte_token(std::string_view text);

}  // namespace sj
