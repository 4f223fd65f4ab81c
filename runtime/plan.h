// A step that is ready to run: every launch has its kernel loaded and its arguments' pointers filled in.
// In: made by make_plan. Out: read by the executor, the profiler and `inspect --stage plan`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "jit/driver.h"
#include "jit/module.h"
#include "runtime/lowered.h"

namespace sj {

struct PlannedLaunch {
  const LoadedKernel* kernel = nullptr;   ///< owned by the session's LoadedKernels
  LaunchShape shape;
  std::vector<std::byte> args;
  std::string label;
  int layer = -1;
  bool pdl = true;
  Cost fixed_cost;
  CostPerKey per_key;

  /// With `n_keys` tokens in the KV cache, the step's own included.
  Cost cost(uint64_t n_keys) const;
};

struct Plan {
  uint32_t n_tokens = 0;       ///< most tokens a step
  bool all_logits = false;     ///< false: logits of the last token, and the next token is sampled greedily
  uint32_t attend_tokens = 0;  ///< one-token plans: positions below this; 0: the whole context
  std::vector<PlannedLaunch> launches;
  GraphExec graph;             ///< empty: launched one by one

  Cost cost(uint64_t n_keys) const;
};

/// One line a launch with its addresses, for `inspect --stage plan`.
std::string dump(const Plan& plan);

}  // namespace sj
