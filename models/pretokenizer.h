// Splits text into the pieces within which byte-level BPE merges. In: valid UTF-8 without special tokens. Out: views.
// The patterns are those the models were trained with, by the name in a GGUF file's tokenizer.ggml.pre.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sj {

/// One row of the table of known pre-tokenizers.
struct PretokenizerSpec {
  /// Applied one after the other: each splits every piece of the stage before, and text between matches is a piece.
  /// Perl syntax; \s is Unicode White_Space.
  std::vector<std::string_view> stages;
  bool ignores_merges = false;   ///< a piece that is a token is taken whole
  bool adds_bos = false;         ///< default of tokenizer.ggml.add_bos_token
  bool composes = false;         ///< text is brought to normalisation form C first
};

/// Throws kUnsupported naming the string when `name` has no row.
PretokenizerSpec require_pretokenizer(std::string_view name);
/// Every name that has a row, for tests and messages.
std::vector<std::string_view> pretokenizer_names();

/// Compiled stages. Immutable after construction: one object serves all threads.
class Pretokenizer {
 public:
  explicit Pretokenizer(const PretokenizerSpec& spec);
  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  /// Appends the pieces of `text`, in order, none empty; together they are `text`. The views point into `text`.
  /// Requires valid UTF-8. Linear time.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sj
