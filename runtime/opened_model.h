// What every backend's session starts from: the file, its description, its tokenizer, and the checks of what a user feeds.
// Called by session.cpp, cpu_session.cpp and cuda_session.cpp.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "models/tokenizer.h"
#include "runtime/session.h"

namespace sj {

using Clock = std::chrono::steady_clock;

inline double elapsed_us(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

struct OpenedModel {
  Clock::time_point start;
  GgufFile file;
  ModelDesc model;
  std::optional<Tokenizer> tokenizer;
  LoadTimings timings;
  std::optional<uint64_t> weight_seed = {};   ///< the file has no data: weights are made from this seed
};

/// Throws as open_gguf, describe_model and Tokenizer::from_gguf do.
OpenedModel open_model(const std::string& path);

/// `wanted`, or min(trained context, 4096) when it is 0.
uint32_t context_tokens(const ModelDesc& model, uint32_t wanted);

/// Throws kUsage when there are no tokens, when one is not in the vocabulary, or when n_past + tokens exceed the context.
void require_tokens_fit(const ModelDesc& model, std::span<const TokenId> tokens, uint32_t n_past, uint32_t max_ctx_tokens);

/// Most tokens that generate() can sample once the prompt is in the cache: each but the last needs a place there.
uint32_t n_tokens_to_sample(const GenerateOptions& options, uint32_t n_past, uint32_t max_ctx_tokens);

/// Lowest id with the largest logit. Throws kInternal when one is NaN.
TokenId argmax(std::span<const float> logits);

std::unique_ptr<Session> open_cpu_session(const SessionOptions& options, OpenedModel opened);

}  // namespace sj
