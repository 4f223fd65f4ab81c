// Where a step's time goes while it runs as it always does: overlapped, as one graph. In: a plan, the texts of its kernels with
// stamps of the device's clock around them. Out: one time line a launch. Called by the profiler.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "jit/nvrtc.h"
#include "jit/source_set.h"
#include "kernel_src/args/launch_trace.h"
#include "runtime/executor.h"
#include "runtime/plan.h"
#include "runtime/session.h"

namespace sj {

/// The stamps of one run of a step, in launch order, as slices: the first has no gap. Times never run backwards: stamps of
/// overlapping launches are cut at the end of the launch before.
std::vector<LaunchSlice> slices_of(std::span<const LaunchStamps> stamps);
/// For each launch the mean of the half of `runs` whose total time is nearest the middle: sums stay sums, outliers don't count.
/// Every run has the same number of slices; at least one run.
std::vector<LaunchSlice> middle_mean(std::span<const std::vector<LaunchSlice>> runs);

/// `sources` with the stamps: what compiles a traced kernel.
SourceSet traced_sources(const SourceSet& sources);

struct TraceRequest {
  const Lowered& step;
  const Plan& plan;                       ///< of `step`
  const SourceSet& sources;
  std::string target;
  uint32_t n_threads = 0;                 ///< of the compiler; 0: all cores
  uint32_t n_repeats = 16;
  std::function<void()> prepare;          ///< enqueues the state of the step; called before each run
};
/// Compiles the plan's kernels with stamps (in memory, a few seconds), and runs the step with them. Nothing when the stamps don't
/// come out one a block: `why` says for which kernel. Throws kCompile and kCuda.
std::optional<std::vector<LaunchSlice>> trace_plan(const Driver& drv, Executor& executor, const Nvrtc& nvrtc,
                                                   const TraceRequest& request, std::string& why);

}  // namespace sj
