// A loop over indices on several threads.
#pragma once

#include <cstdint>
#include <functional>

namespace sj {

/// Cores that this process may use, at least 1.
uint32_t n_usable_cores();

/// Calls body(i) for every i in [0, n_jobs), in order of i, on min(n_threads, n_jobs) threads (0: all cores); the caller's
/// thread is one of them. After a throw no further job starts, and the first exception is thrown again here.
void parallel_for(uint64_t n_jobs, uint32_t n_threads, const std::function<void(uint64_t)>& body);

}  // namespace sj
