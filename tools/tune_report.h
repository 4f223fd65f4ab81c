// What a sweep found, for people: tables for the terminal and one HTML page. In: outcomes and figures. Out: text. Called by tune.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jit/device_info.h"
#include "runtime/tuner.h"

namespace sj {

/// One row a kernel, then the whole step before and after, then how many candidates needed not run.
std::string format_outcome(const TuneOutcome& outcome);

/// Every candidate of a dry run: what it takes of the card, and whether it would be measured.
std::string format_dry_run(const DeviceInfo& device, std::span<const TuneKey> keys);

struct TuneReport {
  std::string model, device, driver, objective;
  std::vector<TuneRecord> records;     ///< of the kernels to show, in this order
  std::vector<StepOutcome> steps;
  std::vector<TuneFigures> figures;    ///< of all candidates; those of other kernels are left out
};
/// One self-contained page, well-formed as XML: a chart a kernel (candidates against GB/s and % of the peak; the default and the
/// winner marked), those that were not measured with the reason.
std::string tune_report_html(const TuneReport& report);

/// Text for HTML: & < > " ' become entities, control characters question marks.
std::string html_text(std::string_view text);

}  // namespace sj
