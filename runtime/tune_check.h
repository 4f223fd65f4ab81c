// Does a candidate compute what the default computes? Compares outputs as values, launch by launch, on the same inputs.
// In: a bench, the default's step, a candidate's. Out: nothing, or what differs. Called by the tuner before it measures a candidate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/tune_bench.h"

namespace sj {

/// What is wrong with `found` where `expected` is right; empty: nothing. Both are whole buffers of that form. The bounds are derived
/// in tune_check.cpp; opaque buffers always pass.
std::string compare_values(ValueForm form, std::span<const std::byte> expected, std::span<const std::byte> found);
/// The same for keys and values of the cache.
std::string compare_kv(bool is_f32, std::span<const std::byte> expected, std::span<const std::byte> found);

/// Two states that a sampling kernel left behind: equal, or the tokens' logits (f32, those of the default) are as good as equal.
std::string compare_sampled(std::span<const std::byte> expected, std::span<const std::byte> found, std::span<const std::byte> logits);

/// The default's outputs of some launches of one key, and their inputs.
class OutputCheck {
 public:
  /// Runs `base`'s whole step, then the key's first, middle and last launch by itself. Throws kCuda, and kInternal when the default's
  /// outputs have a NaN or are not repeatable: then nothing could be compared.
  OutputCheck(TuneBench& bench, size_t context, const TuneVariant& base, const std::string& key);

  /// Runs the candidate's launches on the same inputs, its outputs filled with NaN before. Empty: they agree; else which output of
  /// which launch differs, and how. Throws kCuda.
  std::string find_difference(const TuneVariant& candidate) const;
  /// The same for the key's first launch when the whole step runs as one graph, launches overlapping: its inputs are still the
  /// default's, and a wait that is missing shows there only.
  std::string find_difference_in_step(const TuneVariant& base, const TuneVariant& candidate) const;
  /// Puts everything back to where the default left it, at the context's depth: what TuneVariant::alone runs on.
  void restore() const;

 private:
  /// Device memory that a launch could write to.
  struct Region {
    std::string name;
    CUdeviceptr ptr = 0;
    uint64_t n_bytes = 0;
    uint64_t at = 0;        ///< its place in the copies
  };
  struct Launch {
    size_t idx = 0;
    std::vector<uint32_t> outputs;      ///< values that it is the first to name
    bool has_logits = false;
    std::vector<std::byte> expected;    ///< all regions after the default ran
  };

  void add_region(std::string name, CUdeviceptr ptr, uint64_t n_bytes);
  std::vector<std::byte> read_regions() const;
  std::vector<std::byte> run(const Launch& launch, const PlannedLaunch& planned) const;
  std::string compare(const Launch& launch, std::vector<std::byte> found) const;

  TuneBench& bench_;
  size_t context_;
  const Lowered& step_;                 ///< of the widest step: sizes of all buffers
  std::vector<Region> regions_;         ///< the arena first
  uint64_t n_bytes_ = 0;
  DeviceBuffer before_;                 ///< all regions as every run finds them
  std::vector<Launch> launches_;
};

}  // namespace sj
