// Text to token ids and back, from a GGUF file's vocabulary (gpt2 byte-level BPE, SPM).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
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

/// A stretch of text and whether it may contain special tokens: a chat template's own words may, a user's may not.
struct TextSpan {
  std::string_view text;
  bool parse_special = true;
};

/// Immutable after construction: one object serves all threads.
class Tokenizer {
 public:
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Throws kUnsupported for a tokenizer model or pre-tokenizer that is not implemented, kBadModel for broken tables.
  static Tokenizer from_gguf(const GgufFile& file);
  /// False for files without a vocabulary ("no_vocab"/"none"): such models are driven by token ids only.
  static bool has_vocab(const GgufFile& file);

  /// Invalid UTF-8 becomes U+FFFD. O(n log n) in the longest word. A BOS (EOS) that the text itself begins (ends) with
  /// is not doubled.
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// The joined text of the spans: words merge across their borders, but a control token is found only where all of
  /// its bytes are in one run of spans with parse_special.
  std::vector<TokenId> encode_spans(std::span<const TextSpan> spans, bool add_special = true) const;
  /// Bytes of one token, not always whole characters; control tokens are empty unless `special`, unused ones always.
  /// Throws kUsage for an id outside the vocabulary.
  std::string piece(TokenId id, bool special = false) const;
  /// Concatenated pieces; strips the one prefix space that encode added.
  std::string decode(const std::vector<TokenId>& ids, bool special = false) const;

  uint32_t n_tokens() const;
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  bool adds_bos() const;
  bool adds_eos() const;
  bool is_control(TokenId id) const;  ///< shown by `piece` and `decode` only with `special`
  bool is_eog(TokenId id) const;      ///< end of generation: any of the file's stop tokens
  /// By the text in the file (byte-level vocabularies: in their alphabet of printable characters).
  std::optional<TokenId> find_token(std::string_view text) const;
  /// What the file left out or has wrong and was worked around, for the log.
  const std::vector<std::string>& warnings() const;

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
