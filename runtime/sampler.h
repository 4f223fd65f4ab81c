// Chooses the next token from one row of logits. In: logits, history. Out: a token id. Called by the session.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <unordered_map>
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

/// State of one sequence: penalty window and random numbers. Copyable: a copy goes on from the same state.
class Sampler {
 public:
  struct Candidate {
    float logit = 0, weight = 0;
    TokenId id = 0;
  };

  /// Throws kUsage for an option outside its range.
  explicit Sampler(const SamplerOptions& options);
  /// Remembers a token (prompt tokens too) for the penalties.
  void accept(TokenId id);
  /// Throws kInternal when a logit is NaN or +inf, or none is above -inf. Does not accept() the result. Linear in the
  /// vocabulary. Of equal logits the lower id comes first, everywhere; one random number a call, none when a single
  /// candidate is left.
  TokenId sample(std::span<const float> logits);

 private:
  struct Candidates;
  struct Kept {
    std::vector<float> logits;
    std::vector<TokenId> ids;
  };
  std::span<const float> penalise(std::span<const float> logits);
  static Candidate find_border(const Candidates& candidates, float scale, double fraction);
  static Candidates filter(const Candidates& candidates, float least, TokenId last_id, Kept& out);

  SamplerOptions options_;
  std::mt19937 rng_;
  std::vector<TokenId> history_;                  ///< the window; a ring once it is full
  size_t oldest_ = 0;                             ///< in history_
  std::unordered_map<TokenId, uint32_t> counts_;  ///< of the tokens in the window
  std::vector<float> penalised_;                  ///< buffers of sample(), from here on
  std::array<Kept, 2> kept_;                      ///< a filter reads one and fills the other
};

}  // namespace sj
