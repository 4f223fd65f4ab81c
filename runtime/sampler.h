// Chooses the next token from one row of logits. In: logits, history. Out: a token id. Called by the session.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "models/tokenizer.h"

namespace sj {

/// Order: penalties, top-k, top-p, min-p, temperature, draw (llama.cpp's order and definitions; DESIGN, specs/gguf.md 10).
struct SamplerOptions {
  float temperature = 0.8f;        ///< <= 0: greedy
  int32_t top_k = 40;              ///< <= 0: off
  float top_p = 0.95f;             ///< >= 1: off
  float min_p = 0.05f;             ///< <= 0: off
  float repeat_penalty = 1.0f, frequency_penalty = 0.0f, presence_penalty = 0.0f;
  int32_t penalty_last_n = 64;     ///< 0: off, -1: whole context
  uint32_t seed = 0xFFFFFFFFu;     ///< 0xFFFFFFFF: random
  bool is_greedy() const;          ///< plain argmax: temperature <= 0 (or top_k 1) and no penalty active
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  /// Remembers a token (prompt tokens too) for the penalties.
  void accept(TokenId id);
  /// Throws kInternal when a logit is NaN. Does not accept() the result.
  TokenId sample(std::span<const float> logits);
 private:
  SamplerOptions options_;
  std::mt19937 rng_;
  std::vector<TokenId> history_;
};

}  // namespace sj
