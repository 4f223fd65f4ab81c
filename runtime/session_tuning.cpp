#include "runtime/session_tuning.h"

#include <fmt/format.h>

#include "cache/tuning_db.h"
#include "jit/base/log.h"
#include "jit/driver.h"

namespace sj {

std::string tuning_driver(int version) { return version == 0 ? "" : cuda_version_text(version); }

Tuning session_tuning(const SessionOptions& options, const DeviceInfo& device, int driver_version) {
  if (options.tuning_path == "none") return {};
  const std::string driver = tuning_driver(driver_version);
  Tuning tuning = tuning_for(shipped_tunings(), device, driver);
  const size_t n_shipped = tuning.chosen.size();
  if (!options.tuning_path.empty() && options.tuning_path != "shipped") {
    // What a sweep here found to be the default's equal overrules what is built in.
    const TuningDb own = read_tuning_db(options.tuning_path);
    for (const TuneRecord& record : own.records)
      if (record.device == device.name && record.arch == device.target()) tuning.chosen.erase(record.key);
    for (auto& [key, values] : tuning_for(own, device, driver).chosen) tuning.chosen[key] = values;
  }
  if (!tuning.chosen.empty())
    log_debug("tuning", "values for {} kernel shapes on {}: {} built in, from {}", tuning.chosen.size(), device.name, n_shipped,
              options.tuning_path.empty() ? "no file" : options.tuning_path);
  return tuning;
}

}  // namespace sj
