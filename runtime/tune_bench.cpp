#include "runtime/tune_bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "jit/launch.h"
#include "kernel_src/args/step_state.h"

namespace sj {
namespace {

constexpr double kSampleUs = 6000;      // long against the clock's step and the gap between two graphs
constexpr uint32_t kMaxReplays = 64;
constexpr uint32_t kKvSeed = 1;
constexpr int32_t kFirstToken = 1;

/// A place of its own for every value, behind `first_byte`.
ArenaPlan plan_apart(const Lowered& step, uint64_t first_byte) {
  ArenaPlan plan;
  uint64_t at = first_byte;
  for (const LoweredValue& value : step.values) {
    plan.offsets.push_back(at);
    at += (std::max<uint64_t>(value.n_bytes, 1) + kBufferAlignBytes - 1) / kBufferAlignBytes * kBufferAlignBytes;
  }
  plan.n_bytes = at;
  return plan;
}

std::string kernel_key(const KernelSpec& spec) {
  return fmt::format("{}\n{}\n{}\n{}", spec.source, spec.entry, spec.launch.dynamic_smem_bytes, baked_header(spec));
}

/// Positions that a context's step may be run at: below this.
uint32_t position_limit(const TuneSpace& space, size_t context) {
  const uint32_t attend = space.contexts()[context].attend_tokens;
  return attend == 0 ? space.max_ctx_tokens() : std::min(attend, space.max_ctx_tokens());
}

}  // namespace

TuneBench::TuneBench(const Driver& drv, int ordinal, const TuneSpace& space, const OpenedModel& opened, KernelCache& cache,
                     uint32_t n_threads, bool show_progress, uint64_t pad_bytes)
    : space_(space), cache_(cache), context_(drv, ordinal), executor_(drv, false), begin_(drv), end_(drv) {
  if (pad_bytes != 0) pad_ = DeviceBuffer(drv, pad_bytes, "pad before the weights");
  const std::vector<Lowered>& steps = space.widest();
  const std::unique_ptr<WeightSource> source = weight_source(opened, space.device());
  weight_plan_ = std::make_unique<WeightPlan>(*source, steps);
  StatePlan states = plan_states(steps);
  for (const Lowered& step : steps) {
    arenas_.push_back(plan_arena(step));
    apart_.push_back(plan_apart(step, arenas_.back().n_bytes));
  }
  const MemoryInfo memory = memory_info(drv);
  require_fits(memory_needs(space.model(), space.max_ctx_tokens(), space.kv_type(), *weight_plan_, states, apart_), memory.free_bytes,
               memory.total_bytes, space.device().name,
               opened.weight_seed ? "--layers takes fewer of the model's layers" : "--ctx takes a shorter context");
  memory_ = std::make_unique<DeviceMemory>(drv, executor_.stream(), std::move(states), apart_);
  memory_->set_weights(upload_weights(context_, *source, *weight_plan_, n_threads, show_progress), *weight_plan_);
  fill_kv_cache(drv, executor_.stream(), *memory_, space.model(), space.kv_type(), space.max_ctx_tokens(), kKvSeed);
}

TuneBench::~TuneBench() {
  try {
    executor_.stream().synchronize("end of tuning");   // kernels still write to the mapped ring
  } catch (const Error&) {                             // it was thrown where it happened
  }
}

std::shared_ptr<const LoadedKernel> TuneBench::loaded(const KernelSpec& spec, bool is_fresh) {
  std::weak_ptr<const LoadedKernel>& known = loaded_[kernel_key(spec)];
  std::shared_ptr<const LoadedKernel> kernel = is_fresh ? nullptr : known.lock();
  if (kernel) return kernel;
  const KernelTable table{.specs = {spec}, .of_launch = {}};
  const std::string target = space_.device().target();
  const BuiltKernels built{.cubins = {cache_.require_cubin(spec, target)}, .stats = {}};
  kernel = std::make_shared<const LoadedKernel>(std::move(load_kernels(driver(), cache_, table, built, target).front()));
  if (!is_fresh) known = kernel;
  return kernel;
}

std::unique_ptr<TuneVariant> TuneBench::load(size_t context, const Tuning& tuning, const std::string& key, bool is_fresh) {
  auto variant = std::make_unique<TuneVariant>();
  variant->step = space_.lower(context, tuning);
  const Lowered& step = variant->step;
  std::map<std::string, std::shared_ptr<const LoadedKernel>> kernels;   // of this variant
  for (size_t i = 0; i < step.launches.size(); ++i) {
    const KernelSpec& spec = step.launches[i].spec;
    const bool is_of_key = !key.empty() && spec.tune_key == key;
    std::shared_ptr<const LoadedKernel>& kernel = kernels[kernel_key(spec)];
    if (!kernel) kernel = loaded(spec, is_fresh && is_of_key);
    variant->plan.launches.push_back(plan_launch(step, i, arenas_[context], *memory_, *kernel));
    variant->apart.push_back(plan_launch(step, i, apart_[context], *memory_, *kernel));
    if (is_of_key) variant->alone.launches.push_back(variant->apart.back());
  }
  for (auto& [name, kernel] : kernels) variant->kernels.push_back(std::move(kernel));
  executor_.capture(variant->plan);
  if (!variant->alone.launches.empty()) executor_.capture(variant->alone);
  return variant;
}

void TuneBench::write_depth(uint32_t depth_tokens) {
  const StepState state{.position = static_cast<int32_t>(depth_tokens), .n_tokens = 1, .token = kFirstToken, .step_idx = 0};
  copy_to_device(driver(), memory_->state_ptr("step"), &state, sizeof state);
}

void TuneBench::set_depth(size_t context, uint32_t more_tokens) {
  write_depth(std::min(space_.contexts()[context].check_tokens() + more_tokens, position_limit(space_, context) - 1));
}

void TuneBench::fill_apart(size_t context, const TuneVariant& base) {
  set_depth(context);
  executor_.guarded("step on separate buffers", [&] {
    for (const PlannedLaunch& planned : base.apart) launch(*planned.kernel, planned.shape, planned.args, executor_.stream(), {.pdl = false});
    executor_.stream().synchronize("step on separate buffers");
  });
  set_depth(context);
}

void TuneBench::run_apart(size_t context, const TuneVariant& variant) {
  Plan plan;
  plan.launches = variant.apart;
  executor_.capture(plan);
  set_depth(context);
  executor_.run(plan);
  executor_.synchronize("step on separate buffers");
}

uint32_t TuneBench::n_replays(size_t context, double run_us) const {
  const std::vector<uint32_t>& depths = space_.contexts()[context].sample_depths;
  const uint32_t limit = position_limit(space_, context), deepest = depths.back();
  const uint32_t room = deepest < limit ? limit - deepest : 0;
  const double wanted_us = kSampleUs / static_cast<double>(depths.size());
  const auto wanted = static_cast<uint32_t>(std::clamp(std::ceil(wanted_us / std::max(run_us, 1.0)), 1.0, double{kMaxReplays}));
  return std::clamp(wanted, 1u, std::max(room, 2u) - 1);   // one goes before the clock starts
}

double TuneBench::sample_us(size_t context, const Plan& plan, uint32_t n_replays) {
  const std::vector<uint32_t>& depths = space_.contexts()[context].sample_depths;
  double us = 0;
  executor_.guarded("measurement", [&] {
    for (const uint32_t depth : depths) {
      write_depth(std::min(depth, position_limit(space_, context) - 1));
      plan.graph.launch(executor_.stream());   // another graph ran before: its code and data are not what a run of steps finds
      begin_.record(executor_.stream());
      for (uint32_t i = 0; i < n_replays; ++i) plan.graph.launch(executor_.stream());
      end_.record(executor_.stream());
      end_.synchronize();
      us += end_.elapsed_us(begin_) / n_replays;
    }
  });
  return us / static_cast<double>(depths.size());
}

PairedTimes TuneBench::measure(size_t context, const TuneVariant& base, const TuneVariant& candidate, TuneObjective objective,
                               uint32_t n_pairs, const std::function<bool()>& is_over) {
  const bool is_step = objective == TuneObjective::kStep;
  const Plan &a = is_step ? base.plan : base.alone, &b = is_step ? candidate.plan : candidate.alone;
  const uint32_t n = n_replays(context, sample_us(context, a, 1));
  PairedTimes times;
  for (uint32_t i = 0; i < n_pairs && (i == 0 || !is_over()); ++i) {
    // Who goes first changes each time, so that a clock that falls or rises favours neither.
    const bool base_first = i % 2 == 0;
    if (base_first) times.base_us.push_back(sample_us(context, a, n));
    times.candidate_us.push_back(sample_us(context, b, n));
    if (!base_first) times.base_us.push_back(sample_us(context, a, n));
  }
  return times;
}

double TuneBench::alone_us(size_t context, const TuneVariant& variant, uint32_t n_samples) {
  const uint32_t n = n_replays(context, sample_us(context, variant.alone, 1));
  std::vector<double> samples;
  for (uint32_t i = 0; i < n_samples; ++i) samples.push_back(sample_us(context, variant.alone, n));
  return median_of(std::move(samples));
}

bool TuneBench::take_nan() {
  auto* nan_step = reinterpret_cast<volatile uint32_t*>(memory_->host_ptr("nan_step"));
  const bool found = *nan_step != 0;
  *nan_step = 0;
  return found;
}

}  // namespace sj
