// A model on one GPU: two plans, one token a step and a batch, share weights, state and arena.
// In: an opened model and a driver. Out: Session. Called by open_session.
#pragma once

#include <memory>
#include <vector>

#include "jit/device_info.h"
#include "runtime/lowered.h"
#include "runtime/opened_model.h"
#include "runtime/session.h"
#include "runtime/session_steps.h"

namespace sj {

/// `steps` as lower_steps made them for this device. Throws kCuda, kUnsupported, kCompile, kIo.
std::unique_ptr<Session> open_cuda_session(const SessionOptions& options, OpenedModel opened, const Driver& drv, int ordinal,
                                           std::vector<Lowered> steps);

}  // namespace sj
