#include "runtime/memory_plan.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "kernel_src/kv_append_spec.h"

namespace sj {
namespace {

uint64_t round_up(uint64_t n) { return (n + kBufferAlignBytes - 1) / kBufferAlignBytes * kBufferAlignBytes; }

struct Placed {
  uint64_t begin, end;
  Lifetime lifetime;
};

/// Lowest offset at which `n_bytes` touch no buffer that lives at the same time.
uint64_t find_offset(std::vector<Placed>& live, uint64_t n_bytes) {
  std::sort(live.begin(), live.end(), [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
  uint64_t offset = 0;
  for (const Placed& p : live) {
    if (offset + n_bytes <= p.begin) break;
    offset = std::max(offset, p.end);
  }
  return offset;
}

}  // namespace

std::vector<Lifetime> value_lifetimes(const Lowered& lowered) {
  std::vector<Lifetime> lifetimes(lowered.values.size());
  for (uint32_t i = 0; i < lowered.launches.size(); ++i)
    for (const ArgPatch& patch : lowered.launches[i].patches) {
      if (patch.ref.kind != BufferKind::kValue) continue;
      Lifetime& lifetime = lifetimes.at(patch.ref.id);
      if (!lifetime.is_used) lifetime = {i, i, true};
      lifetime.last = i;
    }
  return lifetimes;
}

ArenaPlan plan_arena(const Lowered& lowered) {
  const std::vector<Lifetime> lifetimes = value_lifetimes(lowered);
  std::vector<uint32_t> order(lowered.values.size());
  std::iota(order.begin(), order.end(), 0u);
  // Large ones first: the small ones fit the gaps.
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return lowered.values[a].n_bytes > lowered.values[b].n_bytes; });
  ArenaPlan plan{.offsets = std::vector<uint64_t>(lowered.values.size(), 0)};
  std::vector<Placed> placed, live;
  for (uint32_t id : order) {
    if (!lifetimes[id].is_used) continue;
    live.clear();
    for (const Placed& p : placed)
      if (p.lifetime.overlaps(lifetimes[id])) live.push_back(p);
    const uint64_t n_bytes = round_up(std::max<uint64_t>(lowered.values[id].n_bytes, 1));
    const uint64_t offset = find_offset(live, n_bytes);
    placed.push_back({offset, offset + n_bytes, lifetimes[id]});
    plan.offsets[id] = offset;
    plan.n_bytes = std::max(plan.n_bytes, offset + n_bytes);
  }
  return plan;
}

const StatePlace& StatePlan::require(const std::string& key) const {
  const auto found = places.find(key);
  if (found == places.end()) throw Error(ErrorKind::kInternal, fmt::format("state {}: no plan asked for it", key));
  return found->second;
}

StatePlan plan_states(std::span<const Lowered> steps) {
  StatePlan plan;
  for (const Lowered& step : steps)
    for (const StateBuffer& state : step.states) {
      const auto [it, is_new] = plan.places.try_emplace(state.key, StatePlace{state.home, 0, state.n_bytes, state.init});
      StatePlace& place = it->second;
      if (place.home != state.home || place.init != state.init)
        throw Error(ErrorKind::kInternal, fmt::format("state {}: two plans disagree about its content or place", state.key));
      place.n_bytes = std::max(place.n_bytes, state.n_bytes);
      if (place.init.size() > place.n_bytes)
        throw Error(ErrorKind::kInternal, fmt::format("state {}: {} bytes of content, {} of room", state.key, place.init.size(), place.n_bytes));
    }
  for (auto& [key, place] : plan.places) {
    uint64_t& end = place.home == StateHome::kDevice ? plan.device_bytes : plan.host_bytes;
    place.offset_bytes = end;
    end += round_up(place.n_bytes);
  }
  return plan;
}

uint64_t MemoryNeeds::total_bytes() const { return weight_bytes + kv_bytes + state_bytes + arena_bytes + kReserveBytes; }

void require_fits(const MemoryNeeds& needs, uint64_t free_bytes, uint64_t total_bytes, const std::string& device_name,
                  std::string_view other_advice) {
  if (needs.total_bytes() <= free_bytes) return;
  const uint64_t without_kv = needs.total_bytes() - needs.kv_bytes;
  std::string advice = fmt::format("; {}", other_advice);
  if (without_kv < free_bytes && needs.kv_bytes_per_page != 0) {
    const uint64_t n_tokens = (free_bytes - without_kv) / needs.kv_bytes_per_page * kKvPageTokens;
    if (n_tokens != 0) advice = fmt::format("; a context of {} tokens would fit (--ctx {})", n_tokens, n_tokens);
  }
  throw Error(ErrorKind::kCuda,
              fmt::format("out of GPU memory: needed {} (weights {}, KV cache {}, activations {}, other {}), free {} of {} on {}{}",
                          bytes_text(needs.total_bytes()), bytes_text(needs.weight_bytes), bytes_text(needs.kv_bytes),
                          bytes_text(needs.arena_bytes), bytes_text(needs.state_bytes + kReserveBytes), bytes_text(free_bytes),
                          bytes_text(total_bytes), device_name, advice));
}

std::string bytes_text(uint64_t n_bytes) {
  const double n = static_cast<double>(n_bytes);
  if (n_bytes >= uint64_t{1} << 30) return fmt::format("{:.2f} GiB", n / (1u << 30));
  if (n_bytes >= uint64_t{1} << 20) return fmt::format("{:.1f} MiB", n / (1u << 20));
  if (n_bytes >= 1024) return fmt::format("{:.1f} KiB", n / 1024);
  return fmt::format("{} bytes", n_bytes);
}

}  // namespace sj
