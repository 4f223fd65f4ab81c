#include "models/bpe_merges.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

uint64_t mix(uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15u;
  return pair ^ (pair >> 29);
}

}  // namespace

BpeMerges::BpeMerges(const GgufFile& file, const Vocab& vocab) : vocab_(vocab) {
  const std::span<const std::string_view> lines = file.require_strings(kMergesKey);
  slots_.assign(std::bit_ceil(lines.size() * 3 / 2 + 2), Slot{kNoPair, 0, 0});
  std::string joined;
  for (size_t rank = 0; rank < lines.size(); ++rank) {
    const std::string_view line = lines[rank];
    const size_t space = line.find(' ', 1);   // a left part may begin with a space
    if (space == std::string_view::npos || space + 1 == line.size()) {
      throw Error(ErrorKind::kBadModel,
                  fmt::format("{}: element {}: expected two parts and a space between them, found {:?}", kMergesKey, rank, line),
                  fmt::format("file {}", file.path()));
    }
    const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
    joined.assign(left).append(right);
    add_pair(intern(left), intern(right), static_cast<uint32_t>(rank), intern(joined));
  }
}

std::optional<SymbolId> BpeMerges::find_symbol(std::string_view text) const {
  if (const auto id = vocab_.find(text)) return static_cast<SymbolId>(*id);
  if (extra_symbols_.empty()) return std::nullopt;
  const auto extra = extra_symbols_.find(std::string(text));
  return extra == extra_symbols_.end() ? std::nullopt : std::optional(extra->second);
}

std::string_view BpeMerges::symbol_text(SymbolId symbol) const {
  return is_token(symbol) ? vocab_.text(static_cast<TokenId>(symbol)) : std::string_view(*extra_texts_[symbol - vocab_.n_tokens()]);
}

SymbolId BpeMerges::intern(std::string_view text) {
  if (const auto id = vocab_.find(text)) return static_cast<SymbolId>(*id);
  const auto next = static_cast<SymbolId>(vocab_.n_tokens() + extra_texts_.size());
  const auto [at, is_new] = extra_symbols_.try_emplace(std::string(text), next);
  if (is_new) extra_texts_.push_back(&at->first);
  return at->second;
}

void BpeMerges::add_pair(SymbolId left, SymbolId right, uint32_t rank, SymbolId result) {
  const uint64_t pair = uint64_t{left} << 32 | right;
  const size_t mask = slots_.size() - 1;
  size_t at = mix(pair) & mask;
  while (slots_[at].pair != kNoPair) {
    if (slots_[at].pair == pair) return;   // of equal lines the first has the rank
    at = (at + 1) & mask;
  }
  slots_[at] = {pair, rank, result};
}

const BpeMerges::Slot* BpeMerges::find_pair(SymbolId left, SymbolId right) const {
  const uint64_t pair = uint64_t{left} << 32 | right;
  const size_t mask = slots_.size() - 1;
  for (size_t at = mix(pair) & mask; slots_[at].pair != kNoPair; at = (at + 1) & mask) {
    if (slots_[at].pair == pair) return &slots_[at];
  }
  return nullptr;
}

void BpeMerges::merge(std::vector<SymbolId>& word, Workspace& ws) const {
  if (word.size() < 2) return;
  if (word.size() > INT32_MAX) throw Error(ErrorKind::kUnsupported, fmt::format("a word of {} bytes", word.size()));
  const auto n = static_cast<int32_t>(word.size());
  ws.nodes.resize(word.size());
  for (int32_t i = 0; i < n; ++i) ws.nodes[static_cast<size_t>(i)] = {word[static_cast<size_t>(i)], i - 1, i + 1 == n ? -1 : i + 1};
  const auto node = [&](int32_t i) -> Workspace::Node& { return ws.nodes[static_cast<size_t>(i)]; };

  using Candidate = Workspace::Candidate;
  const auto is_later = [](const Candidate& a, const Candidate& b) { return a.rank != b.rank ? a.rank > b.rank : a.left > b.left; };
  ws.heap.clear();
  const auto candidate_at = [&](int32_t left) -> std::optional<Candidate> {
    if (left < 0 || node(left).next < 0) return std::nullopt;
    const SymbolId l = node(left).symbol, r = node(node(left).next).symbol;
    const Slot* slot = find_pair(l, r);
    return slot == nullptr ? std::nullopt : std::optional(Candidate{slot->rank, left, l, r});
  };
  for (int32_t i = 0; i + 1 < n; ++i) {
    if (const auto c = candidate_at(i)) ws.heap.push_back(*c);
  }
  std::make_heap(ws.heap.begin(), ws.heap.end(), is_later);
  const auto push = [&](int32_t left) {
    if (const auto c = candidate_at(left)) {
      ws.heap.push_back(*c);
      std::push_heap(ws.heap.begin(), ws.heap.end(), is_later);
    }
  };

  constexpr SymbolId kMerged = ~SymbolId{0};   // of a node whose text has gone into its left neighbour
  while (!ws.heap.empty()) {
    std::pop_heap(ws.heap.begin(), ws.heap.end(), is_later);
    const Candidate c = ws.heap.back();
    ws.heap.pop_back();
    // A candidate is stale when either side has changed since: then its pair is no longer there.
    if (node(c.left).symbol != c.left_symbol) continue;
    const int32_t right = node(c.left).next;
    if (right < 0 || node(right).symbol != c.right_symbol) continue;
    node(c.left).symbol = find_pair(c.left_symbol, c.right_symbol)->result;
    node(c.left).next = node(right).next;
    if (node(right).next >= 0) node(node(right).next).previous = c.left;
    node(right).symbol = kMerged;
    push(node(c.left).previous);
    push(c.left);
  }
  word.clear();
  for (int32_t i = 0; i >= 0; i = node(i).next) word.push_back(node(i).symbol);
}

}  // namespace sj
