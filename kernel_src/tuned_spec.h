// How a spec declares its tunables and gets the values that a sweep chose for them. Called by *_spec.cpp only.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "jit/base/error.h"
#include "jit/kernel_spec.h"
#include "jit/tuning.h"

namespace sj {

/// Asked by a spec's builder for the value of each tunable; remembers what was declared.
class TunePick {
 public:
  /// Null: every value is the default.
  explicit TunePick(const TuneValues* chosen) : chosen_(chosen) {}
  /// The value of the baked constant `name`: one of `choices` (the default is one of them in any case), which are those that
  /// the family admits given the values picked so far. Throws kUnsupported when the chosen one is none of them.
  uint32_t operator()(const std::string& name, std::vector<int64_t> choices, int64_t by_default);
  /// Throws kUnsupported when a chosen value was never asked for.
  std::vector<Tunable> take_tunables();

 private:
  const TuneValues* chosen_;
  std::vector<Tunable> tunables_;
};

/// Says that `error` made the tuning of `key` unusable: throws kUsage when `tuning` is strict, else warns.
void refuse_tuning(const Tuning& tuning, const std::string& key, const Error& error);

/// `build(pick)` returns the spec and asks `pick` for its tunables. A choice of `tuning` that breaks a rule is refused, and
/// the spec has its defaults then; what the defaults break is thrown.
/// `key`: family and shape, as people read them: "decode_gemv: q4_K 4096x2048 + q6_K 512x2048, normed".
template <class Build>
KernelSpec tuned_spec(const Tuning& tuning, std::string key, Build&& build) {
  const auto build_with = [&](const TuneValues* chosen) {
    TunePick pick(chosen);
    KernelSpec spec = build(pick);
    spec.tunables = pick.take_tunables();
    spec.tune_key = key;
    spec.is_tuned = chosen != nullptr;
    return spec;
  };
  if (const TuneValues* chosen = tuning.find(key)) {
    try {
      return build_with(chosen);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      refuse_tuning(tuning, key, error);
    }
  }
  return build_with(nullptr);
}

}  // namespace sj
