// WHICH STEPS a session of a model has, and which ones any session of it may have. In: model, card, options. Out: Lowered.
// Both answers come from the same sizes, so kernels that are compiled ahead of time are all that a session can ask for.
// Called by session, inspect, prewarm.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jit/device_info.h"
#include "jit/tuning.h"
#include "models/model_desc.h"
#include "runtime/lowered.h"
#include "runtime/session.h"

namespace sj {

/// The positions that a one-token step for a context of `n_tokens` is laid out for: the next of a few sizes.
uint32_t attend_size(uint32_t n_tokens);

/// The steps of a session: what it compiles, places and runs. First the one-token steps, each for more positions than the one
/// before (Lowered::attend_tokens; the last serves the whole context), then the batched step unless prefill_tokens is 1.
/// Throws kUnsupported as lower_graph does.
std::vector<Lowered> lower_steps(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options, const Tuning& tuning = {});

/// The one-token step of `steps` (as lower_steps made them) that runs when `n_past` tokens are in the cache.
const Lowered& decode_step(std::span<const Lowered> steps, uint32_t n_past);

/// Steps whose kernels are those of every session of the model on the card, whatever its max_ctx_tokens and
/// expect_all_logits; prefill_tokens and activations as in `options`. Throws as lower_steps.
std::vector<Lowered> lower_all_steps(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options,
                                     const Tuning& tuning = {});

}  // namespace sj
