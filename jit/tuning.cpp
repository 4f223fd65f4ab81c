#include "jit/tuning.h"

#include <algorithm>

#include <fmt/format.h>

namespace sj {

const TuneValues* Tuning::find(const std::string& key) const {
  const auto found = chosen.find(key);
  return found == chosen.end() ? nullptr : &found->second;
}

TuneValues tune_values(const KernelSpec& spec) {
  TuneValues values;
  for (const Tunable& tunable : spec.tunables)
    for (const Baked& baked : spec.baked)
      if (baked.name == tunable.name) values[tunable.name] = std::get<int64_t>(baked.value);
  return values;
}

std::vector<TuneValues> tune_combinations(const KernelSpec& spec) {
  const TuneValues own = tune_values(spec);
  std::vector<TuneValues> all = {own};
  for (const Tunable& tunable : spec.tunables) {
    const size_t n_before = all.size();
    for (const int64_t choice : tunable.choices) {
      if (choice == own.at(tunable.name)) continue;
      for (size_t i = 0; i < n_before; ++i) {
        all.push_back(all[i]);
        all.back()[tunable.name] = choice;
      }
    }
  }
  return all;
}

std::string tune_text(const TuneValues& values) {
  std::string text;
  for (const auto& [name, value] : values) text += fmt::format("{}{}={}", text.empty() ? "" : " ", name, value);
  return text;
}

}  // namespace sj
