#include "models/special_tokens.h"

namespace sj {

void SpecialTokens::add(std::string_view text, TokenId id, bool is_on_request) {
  if (text.empty()) return;
  is_first_byte_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const auto [at, is_new] = children_.try_emplace(uint64_t{node} << 8 | static_cast<uint8_t>(c), static_cast<uint32_t>(nodes_.size()));
    if (is_new) nodes_.emplace_back();
    node = at->second;
  }
  if (nodes_[node].id < 0) nodes_[node] = {id, is_on_request};
}

std::optional<SpecialTokens::Match> SpecialTokens::longest_at(std::string_view text, size_t n_parsed) const {
  if (text.empty() || !is_first_byte_[static_cast<uint8_t>(text[0])]) return std::nullopt;
  std::optional<Match> best;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    const Node& n = nodes_[node];
    if (n.id >= 0 && (!n.is_on_request || i < n_parsed)) best = Match{n.id, i + 1};
  }
  return best;
}

}  // namespace sj
