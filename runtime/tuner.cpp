#include "runtime/tuner.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <map>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "jit/base/log.h"
#include "jit/base/parallel.h"
#include "runtime/options.h"
#include "runtime/session_tuning.h"
#include "runtime/tune_compile.h"
#include "runtime/tune_sweep.h"

namespace sj {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr uint32_t kLeastCtxTokens = 4;      // a few steps follow each other in a sample
constexpr uint32_t kLeastPairs = 5;          // fewer prove nothing
constexpr double kSweepShare = 0.75;         // of the budget; the rest is for winners elsewhere and the confirmation
/// Bytes before the weights. Where memory lies moves a step by percents, the same way in every run of one process: winners must win
/// in several places.
constexpr uint64_t kPads[] = {0, 74 << 20, uint64_t{333} << 20};
constexpr double kElsewhereLoss = 0.001;     // of a step, that a winner may lose in a context which it was not swept in

std::string utc_now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

/// "f.x: first line" of a compile error; its log is long.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// Keys whose candidates are compiled while others run.
class CompiledKeys {
 public:
  /// `keys` in the order in which they are swept; must outlive this object.
  CompiledKeys(KernelCache& cache, std::vector<TuneKey>& keys, const std::vector<size_t>& wanted, const DeviceInfo& device, uint32_t n_threads)
      : keys_(keys), device_(device) {
    std::vector<KernelSpec> specs;
    for (const size_t k : wanted)
      for (size_t c = 0; c < keys[k].candidates.size(); ++c) {
        if (keys[k].candidates[c].is_pruned()) continue;
        slots_[{k, c}] = specs.size();
        specs.push_back(keys[k].candidates[c].spec);
      }
    ahead_.emplace(cache, std::move(specs), device.target(), n_threads);
  }

  /// Waits for it, and prunes it if it need not run. Throws kCompile for a default.
  void require(size_t key, size_t candidate) {
    const auto slot = slots_.find({key, candidate});
    if (slot == slots_.end()) return;
    TuneCandidate& c = keys_[key].candidates[candidate];
    try {
      c.resources = ahead_->wait(slot->second)->resources;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCompile || c.is_default) throw;
      c.pruned = PruneReason::kUncompilable;
      c.why = first_line(error.message());
      return;
    }
    c.blocks_per_sm = resident_blocks(device_, c.resources, c.spec.launch);
    prune_compiled(c, keys_[key].candidates.front(), device_);
  }

 private:
  std::vector<TuneKey>& keys_;
  const DeviceInfo& device_;
  std::map<std::pair<size_t, size_t>, size_t> slots_;
  std::optional<CompileAhead> ahead_;
};

TuneSpace make_space(const TuneOptions& options, const ModelDesc& model, const DeviceInfo& device) {
  uint32_t max_ctx_tokens = options.session.max_ctx_tokens;
  if (max_ctx_tokens == 0 && !options.depths.empty()) {   // as `bench` does: what the depths need
    const uint32_t deepest = *std::max_element(options.depths.begin(), options.depths.end());
    max_ctx_tokens = std::max(deepest + 128, context_tokens(model, 0));
  }
  max_ctx_tokens = context_tokens(model, max_ctx_tokens);
  if (max_ctx_tokens < kLeastCtxTokens)
    throw Error(ErrorKind::kUsage, fmt::format("--ctx: {} tokens, tuning needs at least {}", max_ctx_tokens, kLeastCtxTokens));
  return TuneSpace(model, device, options.session.activations, max_ctx_tokens, tune_contexts(max_ctx_tokens, options.depths));
}

class Tuner {
 public:
  Tuner(const TuneOptions& options, const OpenedModel& opened, const Driver& drv, int ordinal)
      : options_(options), opened_(opened), drv_(drv), ordinal_(ordinal), driver_(tuning_driver(drv.version)),
        space_(make_space(options, opened.model, device_info(drv, ordinal))), keys_(space_.enumerate(options.kernels)),
        cache_(kernel_cache_options(options.session, read_environment())) {}

  TuneOutcome run() {
    read_database();
    const std::vector<size_t> wanted = wanted_keys();
    log_info("tune", "{} kernels, {} candidates ({} ruled out by their families' rules); {} kernels are known already", keys_.size(),
             count([](const TuneKey& k) { return k.candidates.size(); }), count([](const TuneKey& k) { return k.n_pruned(); }),
             keys_.size() - wanted.size());
    if (!wanted.empty()) sweep(wanted);
    for (size_t k = 0; k < keys_.size(); ++k) outcome_.keys[k].key = std::move(keys_[k]);
    outcome_.wall_s = std::chrono::duration<double>(SteadyClock::now() - options_.start).count();
    return std::move(outcome_);
  }

 private:
  template <class Size>
  size_t count(const Size& size) const {
    size_t n = 0;
    for (const TuneKey& key : keys_) n += size(key);
    return n;
  }
  bool is_over(double share) const {
    return SteadyClock::now() - options_.start > std::chrono::duration_cast<SteadyClock::duration>(options_.budget * share);
  }

  void read_database() {
    const std::filesystem::path folder = std::filesystem::path(options_.db_path).parent_path();
    std::error_code ignored;   // the write below says what is wrong
    if (!folder.empty()) std::filesystem::create_directories(folder, ignored);
    db_ = read_tuning_db(options_.db_path);
    write_tuning_db(options_.db_path, db_);   // a place that can't be written to is known before minutes are spent
  }

  /// Takes over what is known; returns what is to be swept.
  std::vector<size_t> wanted_keys() {
    std::vector<size_t> wanted;
    for (size_t k = 0; k < keys_.size(); ++k) {
      KeyOutcome& outcome = outcome_.keys.emplace_back();
      const auto is_this = [&](const TuneRecord& r) {
        return r.key == keys_[k].name && r.device == space_.device().name && r.arch == space_.device().target() && r.driver == driver_;
      };
      const auto known = std::find_if(db_.records.begin(), db_.records.end(), is_this);
      if (known == db_.records.end() || options_.again) {
        wanted.push_back(k);
        continue;
      }
      outcome.state = KeyState::kKnown;
      outcome.record = *known;
      if (!known->is_default()) chosen_.chosen[known->key] = known->values;
    }
    return wanted;
  }

  /// What ended the device or could not be loaded once is not tried again: it would end every sweep at the same place.
  void prune_failed() {
    for (const TuneFigures& f : read_figures(journal_path(options_.db_path))) {
      if (f.verdict != TuneVerdict::kFailed || f.device != space_.device().name || f.driver != driver_ || options_.again) continue;
      for (TuneKey& key : keys_)
        for (TuneCandidate& c : key.candidates)
          if (key.name == f.key && c.values == f.values && !c.is_default && !c.is_pruned()) {
            c.pruned = PruneReason::kFailedBefore;
            c.why = fmt::format("{} (--again tries it)", f.why);
          }
    }
  }

  void sweep(const std::vector<size_t>& wanted) {
    prune_failed();
    const uint32_t n_cores = options_.session.n_threads != 0 ? options_.session.n_threads : n_usable_cores();
    CompiledKeys compiled(cache_, keys_, wanted, space_.device(), std::max(n_cores, 2u) - 1);   // one core feeds the GPU
    load_bench(kPads[0]);
    log_info("tune", "model loaded after {:.1f} s", std::chrono::duration<double>(SteadyClock::now() - options_.start).count());
    size_t n_done = 0;
    for (const size_t k : wanted) {
      ++n_done;
      if (is_over(kSweepShare)) {
        log_warning("tune", "the budget is spent: {} of {} kernels are not measured; the next run goes on with them", wanted.size() - n_done + 1,
                    wanted.size());
        break;
      }
      drop_unusable_choices();
      sweep_one(compiled, k);
      log_key(n_done, wanted.size(), outcome_.keys[k]);
    }
    verify_winners();
    confirm();
  }

  void load_bench(uint64_t pad_bytes) {
    bench_.reset();   // its memory comes first
    bench_.emplace(drv_, ordinal_, space_, opened_, cache_, options_.session.n_threads, options_.session.show_progress, pad_bytes);
  }

  /// Values from an older database may not be admissible any more; then sessions use the defaults, and so do measurements.
  void drop_unusable_choices() {
    if (is_chosen_checked_) return;
    is_chosen_checked_ = true;
    for (auto it = chosen_.chosen.begin(); it != chosen_.chosen.end();) {
      Tuning one;
      one.chosen[it->first] = it->second;
      try {
        for (size_t c = 0; c < space_.contexts().size(); ++c) space_.lower(c, one);
        ++it;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kUsage) throw;
        log_warning("tune", "{}", error.message());
        it = chosen_.chosen.erase(it);
      }
    }
  }

  void sweep_one(CompiledKeys& compiled, size_t k) {
    KeyOutcome& outcome = outcome_.keys[k];
    chosen_.chosen.erase(keys_[k].name);
    SweepResult result;
    try {
      result = sweep_key(*bench_, {.key = keys_[k], .chosen = chosen_, .objective = options_.objective, .n_repeats = options_.n_repeats,
                                   .require_compiled = [&](size_t c) { compiled.require(k, c); },
                                   .is_over = [&] { return is_over(kSweepShare); },
                                   .on_failure = [&](TuneFigures f) { append_figures(journal_path(options_.db_path), {{complete(std::move(f))}}); }});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInternal) throw;
      outcome.state = KeyState::kUnchecked;
      outcome.why = error.message();
      return;
    }
    outcome.n_wrong = result.n_wrong;
    for (TuneFigures& f : result.figures) f = complete(std::move(f));
    append_figures(journal_path(options_.db_path), result.figures);
    if (!result.is_complete) return;
    outcome.state = KeyState::kDone;
    if (result.winner) chosen_.chosen[keys_[k].name] = keys_[k].candidates[*result.winner].values;
    record(k, result.winner, result.comparison);
  }

  TuneFigures complete(TuneFigures f) const {
    f.device = space_.device().name, f.driver = driver_, f.model = options_.model_name, f.objective = objective_name(options_.objective);
    f.date = utc_now();
    return f;
  }

  void record(size_t k, std::optional<size_t> winner, const Comparison& comparison) {
    const TuneKey& key = keys_[k];
    const TuneCandidate& base = key.candidates.front();
    TuneRecord r{.key = key.name, .device = space_.device().name, .driver = driver_, .arch = space_.device().target(),
                 .values = key.candidates[winner.value_or(0)].values, .default_values = base.values, .default_us = comparison.base_us,
                 .tuned_us = winner ? comparison.candidate_us : comparison.base_us, .noise_us = comparison.noise_us,
                 .objective = std::string(objective_name(options_.objective)),
                 .context = fmt::format("{}, {} tokens", options_.model_name, depths_text(space_.contexts()[key.context])), .date = utc_now(),
                 .n_candidates = static_cast<uint32_t>(key.candidates.size()), .n_pruned = static_cast<uint32_t>(key.n_pruned())};
    outcome_.keys[k].record = r;
    db_ = read_tuning_db(options_.db_path);   // somebody may have merged into it meanwhile
    merge_records(db_, {&r, 1});
    write_tuning_db(options_.db_path, db_);
  }

  void log_key(size_t n_done, size_t n_all, const KeyOutcome& outcome) const {
    const TuneKey& key = keys_[static_cast<size_t>(&outcome - outcome_.keys.data())];
    const std::string head = fmt::format("{}/{} {}: {} candidates, {} pruned unrun", n_done, n_all, key.name, key.candidates.size(), key.n_pruned());
    if (outcome.state == KeyState::kUnchecked) return log_warning("tune", "{}; not tuned: {}", head, outcome.why);
    if (outcome.state != KeyState::kDone) return log_info("tune", "{}; no time to finish", head);
    const TuneRecord& r = *outcome.record;
    const double gain_us = r.default_us - r.tuned_us;
    log_info("tune", "{}; {}", head, r.is_default() ? fmt::format("the default stays ({:.2f} us, noise {:.2f})", r.default_us, r.noise_us)
                                                    : fmt::format("{}: {:.2f} us instead of {:.2f} ({:.2f} %, noise {:.2f})", tune_text(r.values),
                                                                  r.tuned_us, r.default_us, 100 * gain_us / r.default_us, r.noise_us));
  }

  /// Step with `from` against step with `to`; and `from` against itself.
  struct Confirmation {
    Comparison comparison, null;
    bool is_measured = false;
    bool is_better() const { return is_winner(comparison, null); }
  };
  Confirmation compare_steps(size_t context, const Tuning& from, const Tuning& to) {
    const std::function<bool()> over = [&] { return is_over(1); };
    const auto a = bench_->load(context, from, ""), twin = bench_->load(context, from, ""), b = bench_->load(context, to, "");
    const PairedTimes pairs = bench_->measure(context, *a, *b, TuneObjective::kStep, options_.n_repeats, over);
    const PairedTimes nulls = bench_->measure(context, *a, *twin, TuneObjective::kStep, options_.n_repeats, over);
    const uint32_t least = std::min(kLeastPairs, options_.n_repeats);
    Confirmation result{compare_times(pairs), compare_times(nulls), pairs.base_us.size() >= least && nulls.base_us.size() >= least};
    result.comparison.noise_us = verdict_noise_us(result.comparison, result.null);
    return result;
  }

  bool has_key(size_t context, const std::string& name) const {
    const std::vector<LoweredLaunch>& launches = space_.widest()[context].launches;
    return std::any_of(launches.begin(), launches.end(), [&](const LoweredLaunch& l) { return l.spec.tune_key == name; });
  }

  /// Shares of the step that a winner gains among the other winners, [context][pad]; contexts without its kernel have none.
  using Gains = std::vector<std::vector<double>>;

  /// Measures what this run's winners gain with the weights in other places and in every context that has their kernels, each with
  /// and without it; who does not win there has its default back. One that no time was left for has, too.
  void verify_winners() {
    std::map<size_t, Gains> gains;
    for (size_t k = 0; k < keys_.size(); ++k)
      if (outcome_.keys[k].state == KeyState::kDone && !outcome_.keys[k].record->is_default()) gains[k].resize(space_.contexts().size());
    for (const uint64_t pad : kPads) {
      if (gains.empty() || is_over(1)) break;
      if (pad != kPads[0]) load_bench(pad);   // the sweep left the first
      for (auto& [k, of_key] : gains)
        for (size_t c = 0; c < of_key.size(); ++c) {
          if (!has_key(c, keys_[k].name)) continue;
          Tuning without = chosen_;
          without.chosen.erase(keys_[k].name);
          const Confirmation one = compare_steps(c, without, chosen_);
          if (one.is_measured) of_key[c].push_back(one.comparison.gain_us / one.comparison.base_us);
        }
    }
    for (const auto& [k, of_key] : gains)
      if (const std::string why = why_dropped(k, of_key); !why.empty()) {
        const TuneRecord& r = *outcome_.keys[k].record;
        drop(k, "wins here only, the default stays: " + why,
             {.base_us = r.default_us, .candidate_us = r.default_us, .gain_us = 0, .noise_us = r.noise_us});
      }
  }

  /// Empty for a winner that stays.
  std::string why_dropped(size_t k, const Gains& gains) const {
    for (size_t c = 0; c < gains.size(); ++c) {
      if (!has_key(c, keys_[k].name)) continue;
      const uint32_t depth = space_.contexts()[c].depth_tokens;
      if (gains[c].size() < std::size(kPads)) return fmt::format("no time was left to measure it with the weights in other places at {} tokens", depth);
      const double least = *std::min_element(gains[c].begin(), gains[c].end());
      const bool is_own = c == keys_[k].context;
      if (is_own ? least <= 0 : median_of(gains[c]) < -kElsewhereLoss)
        return fmt::format("at {} tokens it gains {:.2f} % of the step in the {} of {} places of the weights", depth,
                           100 * (is_own ? least : median_of(gains[c])), is_own ? "worst" : "median", std::size(kPads));
    }
    return {};
  }

  /// The key's winner is none: the default is recorded, with the figures of `comparison`.
  void drop(size_t k, const std::string& why, const Comparison& comparison) {
    log_warning("tune", "{}: {} {}", keys_[k].name, tune_text(outcome_.keys[k].record->values), why);
    chosen_.chosen.erase(keys_[k].name);
    outcome_.keys[k].is_dropped = true;
    record(k, std::nullopt, comparison);
  }

  void confirm() {
    const Tuning defaults;
    for (size_t c = 0; c < space_.contexts().size(); ++c) {
      StepOutcome& step = outcome_.steps.emplace_back(StepOutcome{.context = space_.contexts()[c]});
      if (chosen_.chosen.empty()) continue;
      Confirmation all = compare_steps(c, defaults, chosen_);
      if (all.is_measured && !all.is_better() && drop_losers(c)) {
        if (chosen_.chosen.empty()) continue;
        all = compare_steps(c, defaults, chosen_);
      }
      step.comparison = all.comparison;
      step.is_measured = all.is_measured;
      if (!all.is_measured) log_warning("tune", "no time was left to confirm the choices on the whole step at {} tokens", depths_text(step.context));
    }
  }

  /// Together the winners of this context are no better than the defaults: takes them one by one, best first, and keeps who still
  /// helps. Returns whether any was dropped.
  bool drop_losers(size_t context) {
    std::vector<size_t> winners;
    for (size_t k = 0; k < keys_.size(); ++k)
      if (keys_[k].context == context && outcome_.keys[k].state == KeyState::kDone && !outcome_.keys[k].record->is_default()) winners.push_back(k);
    const auto gain = [&](size_t k) { return outcome_.keys[k].record->default_us - outcome_.keys[k].record->tuned_us; };
    std::sort(winners.begin(), winners.end(), [&](size_t a, size_t b) { return gain(a) > gain(b); });
    Tuning kept = chosen_;
    for (const size_t k : winners) kept.chosen.erase(keys_[k].name);
    bool has_dropped = false;
    for (const size_t k : winners) {
      Tuning with = kept;
      with.chosen[keys_[k].name] = outcome_.keys[k].record->values;
      const Confirmation one = compare_steps(context, kept, with);
      if (one.is_better() || !one.is_measured) {
        kept = std::move(with);
        continue;
      }
      drop(k, "wins alone, but not in the whole step with the others: the default stays", one.comparison);
      has_dropped = true;
    }
    chosen_ = std::move(kept);
    return has_dropped;
  }

  const TuneOptions& options_;
  const OpenedModel& opened_;
  const Driver& drv_;
  int ordinal_;
  std::string driver_;
  TuneSpace space_;
  std::vector<TuneKey> keys_;
  KernelCache cache_;
  TuningDb db_;
  Tuning chosen_;                   ///< of all keys so far, the defaults left out
  bool is_chosen_checked_ = false;
  std::optional<TuneBench> bench_;
  TuneOutcome outcome_;
};

}  // namespace

std::string_view objective_name(TuneObjective objective) { return objective == TuneObjective::kStep ? "step" : "kernel"; }

TuneOutcome run_tune(const TuneOptions& options, const OpenedModel& opened, const Driver& drv, int ordinal) {
  return Tuner(options, opened, drv, ordinal).run();
}

std::vector<TuneKey> dry_run_tune(const TuneOptions& options, const ModelDesc& model, const DeviceInfo& device) {
  TuneSpace space = make_space(options, model, device);
  std::vector<TuneKey> keys = space.enumerate(options.kernels);
  KernelCache cache(kernel_cache_options(options.session, read_environment()));
  std::vector<size_t> all(keys.size());
  size_t n_candidates = 0;
  for (size_t k = 0; k < keys.size(); ++k) all[k] = k, n_candidates += keys[k].candidates.size();
  CompiledKeys compiled(cache, keys, all, device, options.session.n_threads != 0 ? options.session.n_threads : n_usable_cores());
  ProgressBar bar("tune", n_candidates, options.session.show_progress);
  for (size_t k = 0; k < keys.size(); ++k)
    for (size_t c = 0; c < keys[k].candidates.size(); ++c) {
      compiled.require(k, c);
      bar.add(1, keys[k].name);
    }
  return keys;
}

}  // namespace sj
