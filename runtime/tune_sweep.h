// ONE KEY'S SWEEP: checks and measures its candidates, loses most of them early, and decides whether one beats the default.
// In: a bench, a key whose candidates are compiled and pruned. Out: figures of all, and the winner if any. Called by the tuner.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/tune_bench.h"
#include "runtime/tune_check.h"
#include "runtime/tune_journal.h"

namespace sj {

struct SweepResult {
  std::vector<TuneFigures> figures;    ///< one a candidate, in their order; device, driver, model and date are not filled in
  std::optional<size_t> winner;        ///< of the candidates
  Comparison comparison;               ///< of the winner, or of the default with itself
  uint32_t n_wrong = 0;
  bool is_complete = false;            ///< false: the time was over before every candidate was measured
};

struct SweepRequest {
  TuneKey& key;
  const Tuning& chosen;                ///< of the other keys, so far: candidates are measured among them
  TuneObjective objective = TuneObjective::kStep;
  uint32_t n_repeats = 25;
  std::function<void(size_t candidate)> require_compiled;   ///< waits until it is compiled, and prunes it if it should be
  std::function<bool()> is_over;       ///< asked between measurements
  std::function<void(const TuneFigures&)> on_failure;       ///< told of a candidate that ended the device, before the throw
};

/// Throws kInternal when the default's own outputs can't be compared, kCuda naming the candidate that ended the device.
SweepResult sweep_key(TuneBench& bench, const SweepRequest& request);

}  // namespace sj
