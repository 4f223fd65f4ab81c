#include "runtime/trace.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "jit/base/parallel.h"
#include "jit/compiler.h"
#include "runtime/planner.h"

namespace sj {
namespace {

constexpr uint32_t kWarmupRuns = 4;

double us_between(uint64_t from_ns, uint64_t to_ns) { return to_ns > from_ns ? static_cast<double>(to_ns - from_ns) / 1e3 : 0; }

double total_us(const std::vector<LaunchSlice>& run) {
  return std::accumulate(run.begin(), run.end(), 0.0, [](double sum, const LaunchSlice& s) { return sum + s.gap_us + s.us; });
}

/// The plan with traced kernels, and where they write.
class TracedPlan {
 public:
  TracedPlan(const Driver& drv, const Nvrtc& nvrtc, const TraceRequest& request)
      : table_(collect_kernels({&request.step, 1})), buffer_(drv, table_.specs.size() * sizeof(LaunchTrace), "launch trace") {
    const SourceSet sources = traced_sources(request.sources);
    std::vector<Cubin> cubins(table_.specs.size());
    parallel_for(cubins.size(), request.n_threads, [&](uint64_t i) {
      KernelSpec& spec = table_.specs[i];
      spec.baked.push_back({"kTrace", static_cast<int64_t>(trace_ptr(i)), "unsigned long long"});
      spec.may_spill = true;   // the stamps take registers
      cubins[i] = compile(nvrtc, {.spec = spec, .sources = sources, .target = request.target});
    });
    for (size_t i = 0; i < cubins.size(); ++i) kernels_.emplace_back(drv, cubins[i], table_.specs[i].launch.dynamic_smem_bytes);
    plan_.n_tokens = request.plan.n_tokens;
    plan_.all_logits = request.plan.all_logits;
    plan_.attend_tokens = request.plan.attend_tokens;
    plan_.launches = request.plan.launches;
    for (size_t i = 0; i < plan_.launches.size(); ++i) plan_.launches[i].kernel = &kernels_[kernel_of(i)];
  }

  Plan& plan() { return plan_; }
  /// The stamps take registers: whether each launch still has enough.
  bool fits(std::string& why) const {
    for (const PlannedLaunch& launch : plan_.launches) {
      const Dim3& block = launch.shape.block;
      if (block.x * block.y * block.z <= launch.kernel->max_threads_per_block()) continue;
      why = fmt::format("{}: with the stamps it has too many registers for {} threads", launch.kernel->label(), block.x * block.y * block.z);
      return false;
    }
    return true;
  }
  CUdeviceptr trace_ptr(size_t kernel) const { return buffer_.ptr() + kernel * sizeof(LaunchTrace); }
  const DeviceBuffer& buffer() const { return buffer_; }
  size_t n_kernels() const { return kernels_.size(); }
  size_t kernel_of(size_t launch) const { return table_.of_launch[0][launch]; }

  /// The launches' stamps in their order; nothing when a kernel's arrivals are not one a block of its launches.
  std::optional<std::vector<LaunchStamps>> stamps(std::span<const LaunchTrace> traces, std::string& why) const {
    std::vector<uint64_t> n_blocks(n_kernels()), n_seen(n_kernels());
    for (size_t i = 0; i < plan_.launches.size(); ++i) {
      const Dim3& grid = plan_.launches[i].shape.grid;
      n_blocks[kernel_of(i)] += uint64_t{grid.x} * grid.y * grid.z;
    }
    for (size_t k = 0; k < n_kernels(); ++k)
      if (traces[k].n_arrivals != n_blocks[k]) {
        why = fmt::format("{}: {} blocks left a stamp, {} ran", kernels_[k].label(), traces[k].n_arrivals, n_blocks[k]);
        return std::nullopt;
      }
    std::vector<LaunchStamps> out;
    for (size_t i = 0; i < plan_.launches.size(); ++i) {
      const size_t kernel = kernel_of(i);
      if (n_seen[kernel] == kTraceLaunches || plan_.launches[i].shape.grid != first_grid(kernel)) {
        why = fmt::format("{}: its launches can't be told apart", kernels_[kernel].label());
        return std::nullopt;
      }
      out.push_back(traces[kernel].stamps[n_seen[kernel]++]);
    }
    return out;
  }

 private:
  Dim3 first_grid(size_t kernel) const {
    for (size_t i = 0; i < plan_.launches.size(); ++i)
      if (kernel_of(i) == kernel) return plan_.launches[i].shape.grid;
    return {};
  }

  KernelTable table_;
  DeviceBuffer buffer_;
  std::vector<LoadedKernel> kernels_;
  Plan plan_;
};

}  // namespace

std::vector<LaunchSlice> slices_of(std::span<const LaunchStamps> stamps) {
  std::vector<LaunchSlice> slices;
  uint64_t last_end_ns = stamps.empty() ? 0 : stamps.front().release_ns;
  for (const LaunchStamps& s : stamps) {
    const uint64_t release_ns = std::max<uint64_t>(s.release_ns, last_end_ns), end_ns = std::max<uint64_t>(s.end_ns, release_ns);
    slices.push_back({us_between(last_end_ns, release_ns), us_between(release_ns, end_ns), us_between(s.begin_ns, s.release_ns),
                      us_between(last_end_ns, std::min<uint64_t>(s.begin_ns, release_ns))});
    last_end_ns = end_ns;
  }
  return slices;
}

std::vector<LaunchSlice> middle_mean(std::span<const std::vector<LaunchSlice>> runs) {
  std::vector<size_t> order(runs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return total_us(runs[a]) < total_us(runs[b]); });
  const size_t skipped = runs.size() / 4, n_used = runs.size() - 2 * skipped;
  std::vector<LaunchSlice> mean(runs[0].size());
  for (size_t r = skipped; r < skipped + n_used; ++r)
    for (size_t i = 0; i < mean.size(); ++i) {
      const LaunchSlice& slice = runs[order[r]][i];
      mean[i].gap_us += slice.gap_us / static_cast<double>(n_used);
      mean[i].us += slice.us / static_cast<double>(n_used);
      mean[i].early_us += slice.early_us / static_cast<double>(n_used);
      mean[i].empty_us += slice.empty_us / static_cast<double>(n_used);
    }
  return mean;
}

SourceSet traced_sources(const SourceSet& sources) {
  SourceSet::Files files = sources.files();
  files["device/ptx.cuh"] += "\n#include \"device/ptx_trace.cuh\"\n";
  return SourceSet(std::move(files));
}

std::optional<std::vector<LaunchSlice>> trace_plan(const Driver& drv, Executor& executor, const Nvrtc& nvrtc,
                                                   const TraceRequest& request, std::string& why) {
  TracedPlan traced(drv, nvrtc, request);
  if (!traced.fits(why)) return std::nullopt;
  executor.capture(traced.plan());
  const Stream& stream = executor.stream();
  std::vector<LaunchTrace> traces(traced.n_kernels());
  std::vector<std::vector<LaunchSlice>> runs;
  for (uint32_t repeat = 0; repeat < kWarmupRuns + std::max(request.n_repeats, 1u); ++repeat) {
    request.prepare();
    executor.guarded("trace", [&] {
      drv.check(drv.cuMemsetD8Async(traced.buffer().ptr(), 0, traced.buffer().size_bytes(), stream.get()), "cuMemsetD8Async", "trace");
      executor.run(traced.plan());
      stream.synchronize("trace");
      drv.check(drv.cuMemcpyDtoH(traces.data(), traced.buffer().ptr(), traced.buffer().size_bytes()), "cuMemcpyDtoH", "trace");
    });
    const std::optional<std::vector<LaunchStamps>> stamps = traced.stamps(traces, why);
    if (!stamps) return std::nullopt;
    if (repeat >= kWarmupRuns) runs.push_back(slices_of(*stamps));
  }
  return middle_mean(runs);
}

}  // namespace sj
