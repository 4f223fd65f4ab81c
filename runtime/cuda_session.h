// A model on one GPU: two plans, one token a step and a batch, share weights, state and arena.
// In: an opened model and a driver. Out: Session. Called by open_session; lower_steps also by inspect and prewarm.
#pragma once

#include <memory>
#include <vector>

#include "jit/device_info.h"
#include "runtime/lowered.h"
#include "runtime/opened_model.h"
#include "runtime/session.h"

namespace sj {

/// The steps of a session: what it compiles, places and runs. First the one-token steps, each for more positions than the one
/// before (Lowered::attend_tokens; the last serves the whole context), then the batched step unless prefill_tokens is 1.
/// Throws kUnsupported as lower_graph does.
std::vector<Lowered> lower_steps(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options);

/// `steps` as lower_steps made them for this device. Throws kCuda, kUnsupported, kCompile, kIo.
std::unique_ptr<Session> open_cuda_session(const SessionOptions& options, OpenedModel opened, const Driver& drv, int ordinal,
                                           std::vector<Lowered> steps);

}  // namespace sj
