// What a sweep found out about every candidate, one line of JSON each, in a file beside the tuning database: the source of the report.
// Lines are only ever appended; a line that a killed process left unfinished is skipped. Called by the tuner and the report.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "jit/device_info.h"
#include "runtime/tune_space.h"
#include "runtime/tune_stats.h"

namespace sj {

enum class TuneVerdict : uint8_t {
  kPruned,     ///< not measured, `why` says the reason
  kWrong,      ///< its outputs are not the default's
  kFailed,     ///< it could not be loaded
  kMeasured,
  kWinner,
  kDefault,
};
std::string_view verdict_name(TuneVerdict verdict);

struct TuneFigures {
  std::string device, driver, key, model, objective, date;
  uint32_t depth_tokens = 0;
  TuneValues values;
  TuneVerdict verdict = TuneVerdict::kMeasured;
  std::string reason, why;         ///< of kPruned (its reason's name), kWrong, kFailed
  uint32_t registers = 0, smem_bytes = 0, blocks_per_sm = 0, n_threads = 0;
  uint64_t n_blocks = 0;
  uint32_t n_launches = 0;         ///< of the key, a step
  double bytes = 0;                ///< they move
  double alone_us = 0;             ///< they take alone, back to back; 0: not measured
  double step_us = 0;              ///< the objective's time; 0: not measured
  double gain_us = 0, noise_us = 0;
  double peak_gb_per_s = 0;        ///< of the card; 0: unknown
  uint32_t rounds = 0;             ///< 3: it was measured to the end
  double gb_per_s() const { return alone_us > 0 ? bytes / alone_us / 1e3 : 0; }
};

/// "<database without .toml>.candidates.jsonl".
std::string journal_path(const std::string& db_path);
/// Throws kIo.
void append_figures(const std::string& path, std::span<const TuneFigures> figures);
/// All whole lines; of the same candidate of the same device, driver and objective the last one counts. A missing file is empty. Throws kIo.
std::vector<TuneFigures> read_figures(const std::string& path);

}  // namespace sj
