// Tunables of kernels and what a sweep chose for them. In: specs that declare tunables. Out: values by key.
// Called by kernel_src/tuned_spec (which applies them), cache/tuning_db (which keeps them) and the tuner.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "jit/kernel_spec.h"

namespace sj {

/// Baked constant -> value.
using TuneValues = std::map<std::string, int64_t>;

/// What was chosen, by KernelSpec::tune_key; kernels that are not in here get their defaults.
struct Tuning {
  std::map<std::string, TuneValues> chosen;
  bool is_strict = false;   ///< an inadmissible value is an error (kUsage); else a warning, and the defaults are used

  const TuneValues* find(const std::string& key) const;
};

/// The values that `spec` has for its tunables.
TuneValues tune_values(const KernelSpec& spec);
/// All combinations of the choices of `spec`'s tunables, the spec's own values first. Some may break a rule of the family that
/// needs several values at once: making a spec of them throws.
std::vector<TuneValues> tune_combinations(const KernelSpec& spec);
/// "kTileRows=24 kWarps=8".
std::string tune_text(const TuneValues& values);

}  // namespace sj
