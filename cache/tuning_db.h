// What sweeps chose for kernels on cards, as a TOML file that people can read and edit. In: records of the tuner.
// Out: the tuning of a session on a card. Called by runtime/session_tuning and `sparkjit tune`.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jit/device_info.h"
#include "jit/tuning.h"

namespace sj {

/// The outcome of one kernel's sweep on one card.
struct TuneRecord {
  std::string key;                     ///< KernelSpec::tune_key
  std::string device, driver, arch;    ///< "NVIDIA H200", "13.0", "sm_90"
  TuneValues values, default_values;   ///< equal when the default won
  double default_us = 0, tuned_us = 0; ///< of `objective`
  double noise_us = 0;                 ///< of the default, measured again and again
  std::string objective;               ///< "step" or "kernel"
  std::string context;                 ///< what ran: "qwen3-30b-a3b, 128 tokens"
  std::string date;                    ///< UTC, "2026-11-21T09:30:00Z"
  uint32_t n_candidates = 0, n_pruned = 0;

  bool is_default() const { return values == default_values; }
  bool operator==(const TuneRecord&) const = default;
};

struct TuningDb {
  std::vector<TuneRecord> records;
  bool operator==(const TuningDb&) const = default;
};

/// Throws kUsage naming `origin`, line, field, rule and what was found; kUnsupported for a newer format.
TuningDb parse_tuning_db(std::string_view toml, const std::string& origin);
/// The text that parse_tuning_db reads back to an equal database.
std::string tuning_db_text(const TuningDb& db);
/// A missing file is an empty database. Throws as parse_tuning_db, and kIo.
TuningDb read_tuning_db(const std::string& path);
/// Other processes see the old file or the new one. Throws kIo.
void write_tuning_db(const std::string& path, const TuningDb& db);
/// Of two records of the same device, driver and key the one with the later date stays; `newer`'s where the dates are equal.
void merge_records(TuningDb& db, std::span<const TuneRecord> newer);

/// The choices for `device`: records of its name and target, those of `driver` before those of other drivers (among these
/// the latest). Empty `driver`: any.
Tuning tuning_for(const TuningDb& db, const DeviceInfo& device, std::string_view driver);

/// What is built into the binary (kernel_src/tuned), for cards that sweeps ran on.
const TuningDb& shipped_tunings();
/// tuning.toml beside the cubins of `cache_dir`; empty without a cache folder ("", "none").
std::string default_tuning_path(const std::string& cache_dir);

}  // namespace sj
