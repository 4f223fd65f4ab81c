// Where a traced kernel writes the device's clock, one record a launch (device/ptx_trace.cuh). Written by kernels of the profiler,
// read by runtime/trace.
#pragma once

namespace sj {

struct LaunchStamps {
  unsigned long long begin_ns;     ///< a first block was there
  unsigned long long release_ns;   ///< for that block all launches before this one were done
  unsigned long long end_ns;       ///< the last block's first thread left
};

inline constexpr unsigned kTraceLaunches = 1024;   ///< most launches of one kernel in a step

struct LaunchTrace {
  unsigned long long n_arrivals;   ///< blocks that came so far
  LaunchStamps stamps[kTraceLaunches];
};

}  // namespace sj
