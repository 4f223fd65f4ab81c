// Small GGUF files with a tokenizer and nothing else, written to a temporary folder.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "models/gguf_file.h"
#include "models/gguf_writer.h"
#include "models/tokenizer.h"

namespace sj {

/// Token types as in tokenizer.ggml.token_type.
inline constexpr int32_t kNormalToken = 1, kUnknownToken = 2, kControlToken = 3, kUserToken = 4, kUnusedToken = 5, kByteToken = 6;

/// A vocabulary under construction; ids are given in the order of the calls.
struct TinyVocab {
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  std::vector<float> scores;

  TokenId add(const std::string& text, int32_t type = kNormalToken, float score = 0) {
    tokens.push_back(text);
    types.push_back(type);
    scores.push_back(score);
    return static_cast<TokenId>(tokens.size()) - 1;
  }
  /// The token of two joined parts, of the next lower rank.
  TokenId add_merge(const std::string& left, const std::string& right) {
    merges.push_back(left + " " + right);
    return add(left + right);
  }
  /// Writes the arrays; the caller adds model, pre-tokenizer, ids and flags.
  void put(GgufWriter& w, bool has_scores) const {
    w.put_strings("tokenizer.ggml.tokens", tokens);
    w.put_i32s("tokenizer.ggml.token_type", types);
    if (has_scores) w.put_f32s("tokenizer.ggml.scores", scores);
    else w.put_strings("tokenizer.ggml.merges", merges);
  }
};

/// Writes, opens and forgets the file.
inline GgufFile open_written(const GgufWriter& w) {
  static int n = 0;
  const auto path = std::filesystem::temp_directory_path() / ("sj_tokenizer_" + std::to_string(::getpid()) + "_" + std::to_string(n++) + ".gguf");
  std::ofstream(path, std::ios::binary) << w.header();
  GgufFile file = open_gguf(path.string());
  std::filesystem::remove(path);
  return file;
}

}  // namespace sj
