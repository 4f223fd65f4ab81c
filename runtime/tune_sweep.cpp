#include "runtime/tune_sweep.h"

#include <algorithm>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "jit/base/log.h"

namespace sj {
namespace {

constexpr uint32_t kFirstPairs = 3, kSecondPairs = 9;   // most candidates are far off: that shows at once; never more than the last round
constexpr size_t kFinalists = 3;
constexpr uint32_t kAloneSamples = 3;

/// A candidate that is loaded and whose outputs are right.
struct Contender {
  size_t candidate = 0;
  std::unique_ptr<TuneVariant> variant;
  Comparison comparison;
};

class Sweep {
 public:
  Sweep(TuneBench& bench, const SweepRequest& request) : bench_(bench), request_(request), key_(request.key) {}

  SweepResult run() {
    request_.require_compiled(0);
    base_ = bench_.load(key_.context, request_.chosen, key_.name);
    check_.emplace(bench_, key_.context, *base_, key_.name);
    const OutputCheck& check = *check_;
    has_nan_ = bench_.take_nan();   // of the default's step, which the check ran
    check.restore();
    for (size_t i = 0; i < key_.candidates.size(); ++i) result_.figures.push_back(figures_of(i));
    result_.figures[0].verdict = TuneVerdict::kDefault;
    result_.figures[0].alone_us = bench_.alone_us(key_.context, *base_, kAloneSamples);
    if (!first_round(check)) return std::move(result_);
    narrow(std::max<size_t>(kFinalists, contenders_.size() / 4));
    if (!longer_round(std::min(kSecondPairs, request_.n_repeats), 2)) return std::move(result_);
    narrow(kFinalists);
    final_round();
    return std::move(result_);
  }

 private:
  Tuning tuning_of(size_t candidate) const {
    Tuning tuning = request_.chosen;
    tuning.chosen[key_.name] = key_.candidates[candidate].values;
    return tuning;
  }

  TuneFigures figures_of(size_t i) const {
    const TuneCandidate& c = key_.candidates[i];
    const LaunchShape& s = c.spec.launch;
    return {.key = key_.name, .objective = {}, .depth_tokens = bench_.space().contexts()[key_.context].depth_tokens, .values = c.values,
            .reason = std::string(prune_reason_name(c.pruned)), .why = c.why, .registers = c.resources.registers,
            .smem_bytes = c.resources.static_smem_bytes + s.dynamic_smem_bytes, .blocks_per_sm = c.blocks_per_sm,
            .n_threads = s.block.x * s.block.y * s.block.z, .n_blocks = uint64_t{s.grid.x} * s.grid.y * s.grid.z,
            .n_launches = key_.n_launches, .bytes = key_.cost.bytes, .peak_gb_per_s = bench_.space().device().bandwidth_gb_per_s};
  }

  /// The comparison of a candidate with the default, and its place in the figures.
  Comparison compare(const Contender& contender, uint32_t n_pairs, uint32_t round) {
    const Comparison c = compare_times(bench_.measure(key_.context, *base_, *contender.variant, request_.objective, n_pairs, request_.is_over));
    TuneFigures& figures = result_.figures[contender.candidate];
    figures.step_us = c.candidate_us, figures.gain_us = c.gain_us, figures.noise_us = c.noise_us, figures.rounds = round;
    result_.figures[0].step_us = c.base_us;
    return c;
  }

  /// Loads, checks and shortly measures all; false: the time is over.
  bool first_round(const OutputCheck& check) {
    ProgressBar bar("tune", key_.candidates.size());
    for (size_t i = 1; i < key_.candidates.size(); ++i) {
      if (request_.is_over()) return false;
      request_.require_compiled(i);
      result_.figures[i] = figures_of(i);
      const TuneCandidate& candidate = key_.candidates[i];
      bar.add(1, tune_text(candidate.values));
      if (candidate.is_pruned()) {
        result_.figures[i].verdict = TuneVerdict::kPruned;
        continue;
      }
      try {
        try_candidate(check, i);
      } catch (const Error& error) {
        result_.figures[i].verdict = TuneVerdict::kFailed;
        result_.figures[i].why = error.message();
        if (error.kind() == ErrorKind::kCuda) request_.on_failure(result_.figures[i]);
        throw error.with_frame(fmt::format("candidate {} of {}", tune_text(candidate.values), key_.name));
      }
    }
    return true;
  }

  void try_candidate(const OutputCheck& check, size_t i) {
    TuneFigures& figures = result_.figures[i];
    Contender contender{.candidate = i};
    try {
      contender.variant = bench_.load(key_.context, tuning_of(i), key_.name);
    } catch (const Error& error) {
      // More shared memory than there is, or code that the driver refuses: nothing has run yet.
      if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kCompile) throw;
      figures.verdict = TuneVerdict::kFailed;
      figures.why = error.message();
      return;
    }
    std::string difference = check.find_difference(*contender.variant);
    check.restore();
    if (difference.empty()) {
      figures.alone_us = bench_.alone_us(key_.context, *contender.variant, kAloneSamples);
      contender.comparison = compare(contender, std::min(kFirstPairs, request_.n_repeats), 1);
      if (bench_.take_nan() && !has_nan_) difference = "in the whole step a logit is NaN";
    }
    if (!is_wrong(i, difference)) contenders_.push_back(std::move(contender));
  }

  /// Notes what differs, if anything does.
  bool is_wrong(size_t candidate, const std::string& difference) {
    if (difference.empty()) return false;
    TuneFigures& figures = result_.figures[candidate];
    figures.verdict = TuneVerdict::kWrong;
    figures.why = difference;
    ++result_.n_wrong;
    log_warning("tune", "{}: {} computes something else and is out: {}", key_.name, tune_text(figures.values), difference);
    return true;
  }

  /// Keeps the best.
  void narrow(size_t n_most) {
    std::vector<Comparison> comparisons;
    for (const Contender& c : contenders_) comparisons.push_back(c.comparison);
    std::vector<Contender> kept;
    for (const size_t i : best_of(comparisons, n_most)) kept.push_back(std::move(contenders_[i]));
    contenders_ = std::move(kept);
  }

  bool longer_round(uint32_t n_pairs, uint32_t round) {
    for (Contender& contender : contenders_) {
      if (request_.is_over()) return false;
      contender.comparison = compare(contender, n_pairs, round);
    }
    return true;
  }

  /// Fresh samples, so that luck in the earlier rounds counts for nothing; the default against itself says what nothing looks like.
  void final_round() {
    const std::unique_ptr<TuneVariant> twin = bench_.load(key_.context, request_.chosen, key_.name, true);
    const auto null_of = [&] {
      return compare_times(bench_.measure(key_.context, *base_, *twin, request_.objective, request_.n_repeats, request_.is_over));
    };
    const Comparison null = null_of();
    result_.figures[0].step_us = null.base_us;
    result_.figures[0].noise_us = null.noise_us;
    result_.figures[0].rounds = 3;
    result_.comparison = null;
    result_.comparison.noise_us = verdict_noise_us(null, null);
    if (!longer_round(request_.n_repeats, 3) || request_.is_over()) return;
    result_.is_complete = true;
    narrow(kFinalists);   // in order
    std::erase_if(contenders_, [&](const Contender& c) { return is_wrong(c.candidate, check_->find_difference_in_step(*base_, *c.variant)); });
    if (contenders_.empty()) return;
    const Contender& best = contenders_.front();
    TuneFigures& figures = result_.figures[best.candidate];
    figures.noise_us = verdict_noise_us(best.comparison, null);
    if (!is_winner(best.comparison, null)) return;
    figures.verdict = TuneVerdict::kWinner;
    result_.winner = best.candidate;
    result_.comparison = best.comparison;
    result_.comparison.noise_us = figures.noise_us;
  }

  TuneBench& bench_;
  const SweepRequest& request_;
  TuneKey& key_;
  std::unique_ptr<TuneVariant> base_;
  std::optional<OutputCheck> check_;
  std::vector<Contender> contenders_;
  bool has_nan_ = false;
  SweepResult result_;
};

}  // namespace

SweepResult sweep_key(TuneBench& bench, const SweepRequest& request) { return Sweep(bench, request).run(); }

}  // namespace sj
