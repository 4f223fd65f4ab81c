// How long each launch of a step takes by itself. In: a plan and an executor. Out: one row a launch. Called by the session
// for `bench --per-op`.
#pragma once

#include <functional>
#include <vector>

#include "runtime/executor.h"
#include "runtime/plan.h"
#include "runtime/session.h"

namespace sj {

/// Runs the plan `n_repeats` times launch by launch, in order, an event before and after each; median of the differences,
/// less what two events with nothing between them measure. Launches don't overlap here, so the sum exceeds the step's time.
/// `prepare` enqueues the state of the step; it is called before every run. `n_keys` as in Plan::cost.
std::vector<OpTiming> profile_plan(const Driver& drv, Executor& executor, const Plan& plan, uint32_t n_repeats, uint64_t n_keys,
                                   const std::function<void()>& prepare);

/// The op's role: "blk.3.attn_q" -> "attn_q".
std::string role_of(const std::string& label);

}  // namespace sj
