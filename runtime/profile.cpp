#include "runtime/profile.h"

#include <algorithm>

#include "jit/launch.h"

namespace sj {
namespace {

constexpr uint32_t kLeadSteps = 8;    // keep the device busy while the host enqueues launches and events
constexpr uint32_t kFloorEvents = 33;

double median(std::vector<double> values) {
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle), values.end());
  return values[middle];
}

std::vector<Event> make_events(const Driver& drv, size_t n) {
  std::vector<Event> events;
  for (size_t i = 0; i < n; ++i) events.emplace_back(drv);
  return events;
}

/// Median distance of events that follow each other.
double event_floor_us(const Driver& drv, const Stream& stream) {
  const std::vector<Event> events = make_events(drv, kFloorEvents);
  for (const Event& event : events) event.record(stream);
  stream.synchronize("profile");
  std::vector<double> gaps;
  for (size_t i = 1; i < events.size(); ++i) gaps.push_back(events[i].elapsed_us(events[i - 1]));
  return median(gaps);
}

}  // namespace

std::string role_of(const std::string& label) {
  if (!label.starts_with("blk.")) return label;
  const size_t dot = label.find('.', 4);
  return dot == std::string::npos ? label : label.substr(dot + 1);
}

std::vector<OpTiming> profile_plan(const Driver& drv, Executor& executor, const Plan& plan, uint32_t n_repeats, uint64_t n_keys,
                                   const std::function<void()>& prepare) {
  const Stream& stream = executor.stream();
  const size_t n_launches = plan.launches.size();
  const std::vector<Event> events = make_events(drv, n_launches + 1);
  std::vector<std::vector<double>> samples(n_launches);
  executor.guarded("profile", [&] {
    const double floor_us = event_floor_us(drv, stream);
    for (uint32_t repeat = 0; repeat < std::max(n_repeats, 1u); ++repeat) {
      for (uint32_t i = 0; i < kLeadSteps; ++i) {
        prepare();
        executor.run(plan);
      }
      prepare();
      for (size_t i = 0; i < n_launches; ++i) {
        const PlannedLaunch& planned = plan.launches[i];
        events[i].record(stream);
        launch(*planned.kernel, planned.shape, planned.args, stream, {.pdl = false});
      }
      events[n_launches].record(stream);
      stream.synchronize("profile");
      for (size_t i = 0; i < n_launches; ++i)
        samples[i].push_back(std::max(events[i + 1].elapsed_us(events[i]) - floor_us, 0.0));
    }
  });
  std::vector<OpTiming> timings;
  for (size_t i = 0; i < n_launches; ++i) {
    const PlannedLaunch& planned = plan.launches[i];
    timings.push_back({role_of(planned.label), planned.layer, median(samples[i]), planned.cost(n_keys)});
  }
  return timings;
}

}  // namespace sj
