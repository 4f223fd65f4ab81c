// Rows of `sparkjit bench` as a table for people or data for programs. In: samples. Out: text. Called by bench.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/session.h"

namespace sj {

/// What is true of every row of one run.
struct BenchSetting {
  std::string model;          ///< file name or shape name
  std::string architecture;
  std::string device;
  uint64_t weight_bytes = 0;  ///< of the file
  double peak_gb_per_s = 0;   ///< 0: unknown
  std::string fill = "prefill";   ///< what the context of a decode row holds: computed from tokens, or "random" keys and values
  std::string kv_type = "f16";    ///< how it is stored
};

/// One measured thing: a prefill of `n_tokens`, or a decode of `n_tokens` with `depth_tokens` already in the context.
struct BenchRow {
  bool is_prefill = false;
  uint32_t n_tokens = 0;
  uint32_t depth_tokens = 0;
  std::vector<double> tokens_per_s;   ///< one a repeat
  double bytes_per_token = 0;         ///< device memory moved, from the plan's Cost; 0: unknown
  uint32_t launches_per_token = 0;    ///< 0: not a GPU
  std::vector<OpTiming> ops = {};     ///< of one decode step, when asked for
  std::string name() const;           ///< "pp512", "tg128 @ d4096"
};

/// Middle value, the mean of the two middle ones for an even count; 0 for none.
double median(std::span<const double> samples);

/// 0 of nothing.
inline double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

/// `format` is md, json or csv. The text ends with a newline; a row's rate is the median, its spread min and max.
std::string format_rows(const BenchSetting& setting, std::span<const BenchRow> rows, std::string_view format);

/// Table of the launches of one step; equal labels are summed unless `is_detailed`. Where the step was traced, a launch's time
/// and its share are those inside the step, and gaps between launches and between steps have lines of their own; else they are
/// those of the launch by itself, and what the step has over their sum is shown as gaps (less than nothing where launches
/// overlap). Either way the lines add up to the step. `step_us` is the step's time as measured from outside; 0: unknown.
std::string format_op_table(const BenchSetting& setting, std::span<const OpTiming> ops, double step_us, bool is_detailed);

}  // namespace sj
