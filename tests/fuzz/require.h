// How a fuzz target says that a rule of ours does not hold.
#pragma once

#include <cstdlib>

/// Ends the run as a finding unless `holds`.
inline void require(bool holds) {
  if (!holds) std::abort();
}
