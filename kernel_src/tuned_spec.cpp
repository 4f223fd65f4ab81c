#include "kernel_src/tuned_spec.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/log.h"

namespace sj {

uint32_t TunePick::operator()(const std::string& name, std::vector<int64_t> choices, int64_t by_default) {
  choices.push_back(by_default);
  std::sort(choices.begin(), choices.end());
  choices.erase(std::unique(choices.begin(), choices.end()), choices.end());
  int64_t value = by_default;
  if (chosen_ != nullptr)
    if (const auto found = chosen_->find(name); found != chosen_->end()) value = found->second;
  if (!std::binary_search(choices.begin(), choices.end(), value))
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: expected one of {}, found {}", name, fmt::join(choices, ", "), value));
  tunables_.push_back({name, std::move(choices)});
  return static_cast<uint32_t>(value);
}

std::vector<Tunable> TunePick::take_tunables() {
  if (chosen_ != nullptr)
    for (const auto& choice : *chosen_)
      if (std::none_of(tunables_.begin(), tunables_.end(), [&](const Tunable& t) { return t.name == choice.first; }))
        throw Error(ErrorKind::kUnsupported, fmt::format("{}: the kernel has no such tunable", choice.first));
  return std::move(tunables_);
}

void refuse_tuning(const Tuning& tuning, const std::string& key, const Error& error) {
  const std::string text = fmt::format("tuned values of {}: {}", key, error.message());
  if (tuning.is_strict) throw Error(ErrorKind::kUsage, text);
  log_warning("tuning", "{}; its defaults are used", text);
}

}  // namespace sj
