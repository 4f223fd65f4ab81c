#include "runtime/session_steps.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/op_graph.h"
#include "runtime/kv_cache.h"
#include "runtime/lowering.h"
#include "runtime/opened_model.h"

namespace sj {
namespace {

constexpr uint32_t kSmallBatchTokens = 64;   // of short contexts, and where all logits are wanted: more would take much memory
/// One-token steps for the positions below; beyond the last, every context has a layout of its own.
constexpr uint32_t kAttendTokens[] = {192, 1024, 5120, 20480, 81920, 327680, 1310720, 5242880, 20971520};

/// What all steps of a model on a card share.
struct StepMaker {
  const ModelDesc& model;
  const DeviceInfo& device;
  const SessionOptions& options;
  const Tuning& tuning;

  Lowered operator()(const GraphOptions& step, uint32_t attend_tokens = 0) const {
    return lower_graph(build_graph(model, step), model, device,
                       {.activations = options.activations, .kv_type = kv_type_of(options), .attend_tokens = attend_tokens, .tuning = tuning});
  }
};

/// Tokens of the batched step: depends on the context only by being short or not, so that few sizes exist.
uint32_t batch_tokens(const SessionOptions& options, uint32_t max_ctx_tokens, bool all_logits) {
  const bool is_small = all_logits || max_ctx_tokens <= kSmallBatchTokens;
  return is_small ? std::min(options.prefill_tokens, kSmallBatchTokens) : options.prefill_tokens;
}

}  // namespace

uint32_t attend_size(uint32_t n_tokens) {
  const auto size = std::lower_bound(std::begin(kAttendTokens), std::end(kAttendTokens), n_tokens);
  return size == std::end(kAttendTokens) ? n_tokens : *size;
}

std::vector<Lowered> lower_steps(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options, const Tuning& tuning) {
  const StepMaker lower{model, device, options, tuning};
  const uint32_t max_ctx_tokens = context_tokens(model, options.max_ctx_tokens);
  std::vector<Lowered> steps;
  for (uint32_t attend_tokens : kAttendTokens) {
    if (attend_tokens >= max_ctx_tokens) break;
    Lowered step = lower({.n_tokens = 1, .max_ctx_tokens = max_ctx_tokens}, attend_tokens);
    if (step.attend_tokens == 0) break;   // nothing in it depends on the position
    steps.push_back(std::move(step));
  }
  steps.push_back(lower({.n_tokens = 1, .max_ctx_tokens = max_ctx_tokens}));
  const bool all_logits = options.expect_all_logits;
  const uint32_t n_batch = batch_tokens(options, max_ctx_tokens, all_logits);
  if (n_batch > 1)
    steps.push_back(lower({.n_tokens = n_batch, .max_ctx_tokens = max_ctx_tokens, .all_logits = all_logits}));
  return steps;
}

const Lowered& decode_step(std::span<const Lowered> steps, uint32_t n_past) {
  for (const Lowered& step : steps)
    if (step.n_tokens == 1 && (step.attend_tokens == 0 || n_past < step.attend_tokens)) return step;
  throw Error(ErrorKind::kInternal, fmt::format("no one-token step reaches position {}", n_past));
}

std::vector<Lowered> lower_all_steps(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options, const Tuning& tuning) {
  // The longest context has the one-token steps of all shorter ones; the batched step has three forms.
  SessionOptions longest = options;
  longest.max_ctx_tokens = kAttendTokens[std::size(kAttendTokens) - 1];
  longest.expect_all_logits = false;
  std::vector<Lowered> steps = lower_steps(model, device, longest, tuning);
  const StepMaker lower{model, device, options, tuning};
  for (bool all_logits : {false, true}) {
    const uint32_t n_batch = batch_tokens(options, kSmallBatchTokens, all_logits);
    if (n_batch > 1)
      steps.push_back(lower({.n_tokens = n_batch, .max_ctx_tokens = kSmallBatchTokens, .all_logits = all_logits}));
  }
  return steps;
}

}  // namespace sj
