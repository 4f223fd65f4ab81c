// The merge table of a BPE vocabulary and the merging of one word. In: symbols. Out: fewer symbols. Called by the BPE
// tokenizers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/gguf_file.h"
#include "models/vocab.h"

namespace sj {

/// A text that merging can produce: ids below n_tokens are tokens, those from there on occur in merges only.
using SymbolId = uint32_t;

class BpeMerges {
 public:
  /// Reads tokenizer.ggml.merges. Throws kBadModel for a missing array or a line without two parts. `vocab` must
  /// outlive the object.
  BpeMerges(const GgufFile& file, const Vocab& vocab);

  std::optional<SymbolId> find_symbol(std::string_view text) const;
  std::string_view symbol_text(SymbolId symbol) const;
  bool is_token(SymbolId symbol) const { return symbol < vocab_.n_tokens(); }

  /// Buffers of merge(), kept by the caller from word to word.
  struct Workspace {
    struct Node { SymbolId symbol; int32_t previous, next; };
    struct Candidate { uint32_t rank; int32_t left; SymbolId left_symbol, right_symbol; };
    std::vector<Node> nodes;
    std::vector<Candidate> heap;
  };
  /// Merges the adjacent pair of lowest rank, the leftmost of equals, until none is left; the result replaces `word`.
  /// O(n log n).
  void merge(std::vector<SymbolId>& word, Workspace& workspace) const;

 private:
  struct Slot { uint64_t pair; uint32_t rank, result; };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  const Slot* find_pair(SymbolId left, SymbolId right) const;
  SymbolId intern(std::string_view text);
  void add_pair(SymbolId left, SymbolId right, uint32_t rank, SymbolId result);

  const Vocab& vocab_;
  std::vector<Slot> slots_;   ///< open addressing, a power of two
  std::unordered_map<std::string, SymbolId> extra_symbols_;
  std::vector<const std::string*> extra_texts_;
};

}  // namespace sj
