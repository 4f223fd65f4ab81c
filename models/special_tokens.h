// Finds special tokens in text. In: text, which tokens take part. Out: the matches, left to right. Called by Tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizer.h"

namespace sj {

/// A trie over token texts. At each position the longest text wins and matching goes on behind it: the rule of
/// SentencePiece and of Hugging Face's added tokens. Linear in the text times the longest token.
class SpecialTokens {
 public:
  struct Match {
    TokenId id = 0;
    size_t n_bytes = 0;
  };

  /// `is_on_request`: takes part only where special tokens are parsed (control tokens). An empty text is ignored; of
  /// equal texts the first one added wins.
  void add(std::string_view text, TokenId id, bool is_on_request);
  /// The longest token at the start of `text`. The first `n_parsed` bytes are where on-request tokens may lie.
  std::optional<Match> longest_at(std::string_view text, size_t n_parsed) const;

 private:
  struct Node {
    TokenId id = -1;
    bool is_on_request = false;
  };
  std::array<bool, 256> is_first_byte_{};
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::unordered_map<uint64_t, uint32_t> children_;   ///< node << 8 | byte -> node
};

}  // namespace sj
