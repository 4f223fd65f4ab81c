// Text to token ids and back, from a GGUF file's vocabulary (gpt2 byte-level BPE, SPM).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf_file.h"

namespace sj {

using TokenId = int32_t;

struct EncodeOptions {
  bool add_special = true;     ///< BOS / EOS as the file asks
  bool parse_special = true;   ///< control tokens in the text become their ids; false for text from a user
};

class Tokenizer {
 public:
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Throws kUnsupported for a tokenizer model or pre-tokenizer that is not implemented, kBadModel for broken tables.
  static Tokenizer from_gguf(const GgufFile& file);
  /// False for files without a vocabulary ("no_vocab"/"none"): such models are driven by token ids only.
  static bool has_vocab(const GgufFile& file);

  /// Invalid UTF-8 becomes U+FFFD. O(n log n) in the longest word.
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// Bytes of one token; control tokens are empty unless `special`.
  std::string piece(TokenId id, bool special = false) const;
  /// Concatenated pieces; strips the one prefix space that encode added.
  std::string decode(const std::vector<TokenId>& ids, bool special = false) const;

  uint32_t n_tokens() const;
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  bool adds_bos() const;
  bool is_eog(TokenId id) const;      ///< end of generation: any of the file's stop tokens
  std::optional<TokenId> find_token(std::string_view text) const;

 private:
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Turns pieces into text that is always valid UTF-8: bytes of an unfinished character are held back (at most 3).
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);   ///< text that is complete now; illegal bytes become U+FFFD
  std::string finish();                       ///< what was held back, as U+FFFD
 private:
  std::string held_;
};

}  // namespace sj
