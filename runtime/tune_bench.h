// Runs candidates where they would run: in the graph of the whole decode step, between their real neighbours, on the model's weights,
// each layer its own. In: a tune space, a model, a card. Out: times and outputs. Called by the tuner and its check.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cache/kernel_cache.h"
#include "runtime/device_load.h"
#include "runtime/executor.h"
#include "runtime/tune_space.h"
#include "runtime/tune_stats.h"

namespace sj {

enum class TuneObjective : uint8_t {
  kStep,     ///< time of the whole step
  kKernel,   ///< time of the key's launches alone, all layers, back to back
};

/// A step of one context, loaded with some tuning.
struct TuneVariant {
  Lowered step;
  std::vector<std::shared_ptr<const LoadedKernel>> kernels;   ///< of the plans below
  Plan plan;                 ///< the step as sessions run it
  Plan alone;                ///< the launches of one key only, on buffers of their own (TuneBench::apart)
  std::vector<PlannedLaunch> apart;   ///< every launch of the step on buffers of its own
};

class TuneBench {
 public:
  /// Uploads the weights and fills the cache with random keys and values. `space` (enumerated), `opened` and `cache` must outlive it.
  /// Throws kCuda when it does not fit, kIo.
  TuneBench(const Driver& drv, int ordinal, const TuneSpace& space, const OpenedModel& opened, KernelCache& cache, uint32_t n_threads,
            bool show_progress, uint64_t pad_bytes = 0);
  ~TuneBench();

  /// Loads and captures the step of a context. `key`: whose launches TuneVariant::alone has; may be empty. `is_fresh`: that key's
  /// kernels are loaded once more although they are loaded already. Throws kCompile, kCuda, kUnsupported.
  std::unique_ptr<TuneVariant> load(size_t context, const Tuning& tuning, const std::string& key, bool is_fresh = false);

  /// Puts the depth at which outputs are checked into the device's state.
  void set_depth(size_t context, uint32_t more_tokens = 0);
  /// Runs the step once on separate buffers, so that every launch's input stays there: `alone` and `apart` find them.
  void fill_apart(size_t context, const TuneVariant& base);

  /// Runs the step as a graph with programmatic edges on those buffers.
  void run_apart(size_t context, const TuneVariant& variant);

  /// Both in turns, `n_pairs` times, each time as many replays as fill a few milliseconds, the same number at each of the context's
  /// sample depths, with an unmeasured one before.
  /// Stops early, with at least one pair, once `is_over` says so.
  PairedTimes measure(size_t context, const TuneVariant& base, const TuneVariant& candidate, TuneObjective objective, uint32_t n_pairs,
                      const std::function<bool()>& is_over);
  /// Time of one run of the key's launches alone; median of `n_samples`.
  double alone_us(size_t context, const TuneVariant& variant, uint32_t n_samples);
  /// True when a step since the last call found a NaN among its logits.
  bool take_nan();

  Executor& executor() { return executor_; }
  const Driver& driver() const { return context_.driver(); }
  const DeviceMemory& memory() const { return *memory_; }
  const TuneSpace& space() const { return space_; }
  const ArenaPlan& apart(size_t context) const { return apart_[context]; }
  CUdeviceptr apart_ptr(size_t context) const { return memory_->arena_ptr() + arenas_[context].n_bytes; }
  uint64_t apart_bytes(size_t context) const { return apart_[context].n_bytes - arenas_[context].n_bytes; }

 private:
  void write_depth(uint32_t depth_tokens);
  uint32_t n_replays(size_t context, double run_us) const;   ///< at each of the sample depths
  double sample_us(size_t context, const Plan& plan, uint32_t n_replays);
  std::shared_ptr<const LoadedKernel> loaded(const KernelSpec& spec, bool is_fresh);

  const TuneSpace& space_;
  KernelCache& cache_;
  Context context_;
  Executor executor_;
  DeviceBuffer pad_;
  std::unique_ptr<WeightPlan> weight_plan_;
  std::unique_ptr<DeviceMemory> memory_;
  std::vector<ArenaPlan> arenas_;   ///< a context; buffers share memory as in a session
  std::vector<ArenaPlan> apart_;    ///< a context; behind it, no buffer shares memory
  std::map<std::string, std::weak_ptr<const LoadedKernel>> loaded_;
  Event begin_, end_;
};

}  // namespace sj
