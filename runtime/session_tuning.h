// WHICH VALUES of tunables a session uses: what is built in for the card, then the user's own sweeps.
// Called by open_session, inspect, prewarm.
#pragma once

#include <string>

#include "jit/device_info.h"
#include "jit/tuning.h"
#include "runtime/session.h"

namespace sj {

/// "13.0": how records of the tuning database name a driver of this `version` (1000 * major + 10 * minor); "" for 0.
std::string tuning_driver(int version);

/// The tuning that options.tuning_path (as resolve_options returns it) names, for `device`: "none" is empty, "shipped" what is
/// built in, a file adds to that and comes before it. Driver version 0: any driver's records. Throws as read_tuning_db.
Tuning session_tuning(const SessionOptions& options, const DeviceInfo& device, int driver_version);

}  // namespace sj
