// Turns one fragment of text, free of special tokens, into token ids. Made by Tokenizer, one a vocabulary kind.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf_file.h"
#include "models/vocab.h"

namespace sj {

/// U+2581, which stands for a space in the tokens of several vocabularies.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

class FragmentEncoder {
 public:
  virtual ~FragmentEncoder() = default;
  /// Appends the ids of `fragment`. Requires valid UTF-8, not empty. `is_after_special`: it begins the text or follows
  /// a special token. Safe to call from several threads.
  virtual void encode(std::string_view fragment, bool is_after_special, std::vector<TokenId>& out) const = 0;
  /// The bytes that a normal token's text stands for.
  virtual std::string decode(std::string_view token_text) const = 0;
};

/// Byte-level BPE, and BPE over UTF-8 characters for Gemma 4. `vocab` must outlive the encoder; its adds_bos is set to
/// the pre-tokenizer's default when the file has no key for it.
std::unique_ptr<FragmentEncoder> make_bpe_encoder(const GgufFile& file, Vocab& vocab);
/// SentencePiece BPE with scores. `vocab` must outlive the encoder.
std::unique_ptr<FragmentEncoder> make_spm_encoder(const Vocab& vocab, bool adds_space_prefix);

}  // namespace sj
