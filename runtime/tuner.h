// SWEEPS: finds, for every tunable kernel of a model on the card present, the values with which the decode step is fastest.
// In: model, card, options. Out: records in the tuning database, figures of every candidate beside it, and what they come to.
// Called by `sparkjit tune`.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cache/tuning_db.h"
#include "runtime/opened_model.h"
#include "runtime/tune_bench.h"
#include "runtime/tune_journal.h"
#include "runtime/tune_space.h"

namespace sj {

struct TuneOptions {
  SessionOptions session;            ///< as resolve_options returns them
  std::string model_name;            ///< for records
  std::string kernels;               ///< a glob over keys; empty: all
  std::vector<uint32_t> depths;      ///< empty: three of every context
  TuneObjective objective = TuneObjective::kStep;
  std::chrono::steady_clock::duration budget = std::chrono::minutes(5);   ///< from `start` on
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::string db_path;               ///< the figures lie beside it
  bool again = false;                ///< also keys that the database knows for this card and driver
  uint32_t n_repeats = 25;           ///< pairs of samples of the last round
};

std::string_view objective_name(TuneObjective objective);

enum class KeyState : uint8_t {
  kDone,        ///< swept now
  kKnown,       ///< the database has it
  kUnchecked,   ///< outputs can't be compared, so nothing may win
  kNoTime,      ///< the budget was spent before
};

struct KeyOutcome {
  TuneKey key;
  KeyState state = KeyState::kNoTime;
  std::optional<TuneRecord> record;   ///< of kDone and kKnown
  uint32_t n_wrong = 0;               ///< candidates whose outputs were not the default's
  std::string why;                    ///< of kUnchecked
  bool is_dropped = false;            ///< it won alone, but not together with the others
};

/// A context's step with all defaults and with everything that was chosen.
struct StepOutcome {
  TuneContext context;
  Comparison comparison;
  bool is_measured = false;           ///< false: nothing was chosen, or no time was left
};

struct TuneOutcome {
  std::vector<KeyOutcome> keys;
  std::vector<StepOutcome> steps;
  double wall_s = 0;
};

/// Throws kUsage (glob, depth), kIo (database), kCuda, and as the bench does. A candidate that ends the device ends this too, with its
/// name in the error; what was recorded before stays.
TuneOutcome run_tune(const TuneOptions& options, const OpenedModel& opened, const Driver& drv, int ordinal);

/// Enumerates, compiles and prunes for a card that need not be here; nothing is measured or recorded.
std::vector<TuneKey> dry_run_tune(const TuneOptions& options, const ModelDesc& model, const DeviceInfo& device);

}  // namespace sj
