// Where buffers lie: arena offsets by liveness, session state by key, and whether all of it fits the device.
// In: lowered steps. Out: offsets and sizes. Called by the session; pure arithmetic, no driver.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/lowered.h"

namespace sj {

inline constexpr uint64_t kBufferAlignBytes = 256;

/// Launches [first, last] of a step that name a value.
struct Lifetime {
  uint32_t first = 0, last = 0;
  bool is_used = false;
  bool overlaps(const Lifetime& other) const { return first <= other.last && other.first <= last; }
};
std::vector<Lifetime> value_lifetimes(const Lowered& lowered);

struct ArenaPlan {
  std::vector<uint64_t> offsets;   ///< one a value, multiples of kBufferAlignBytes
  uint64_t n_bytes = 0;
};
/// Values whose lifetimes overlap never share a byte; others may.
ArenaPlan plan_arena(const Lowered& lowered);

struct StatePlace {
  StateHome home = StateHome::kDevice;
  uint64_t offset_bytes = 0, n_bytes = 0;
  std::vector<std::byte> init;
};
/// The states of all plans of a session by key, each in one of two blocks.
struct StatePlan {
  std::map<std::string, StatePlace> places;
  uint64_t device_bytes = 0, host_bytes = 0;
  const StatePlace& require(const std::string& key) const;   ///< throws kInternal
};
/// Throws kInternal when two plans want different content or homes for one key.
StatePlan plan_states(std::span<const Lowered> steps);

/// Device memory that a session takes, all of it before the first step.
struct MemoryNeeds {
  uint64_t weight_bytes = 0, kv_bytes = 0, state_bytes = 0, arena_bytes = 0;
  uint64_t kv_bytes_per_page = 0;   ///< all layers, K and V, kKvPageTokens tokens
  uint64_t total_bytes() const;     ///< and kReserveBytes
};
/// Room for code, the captured graph and the driver's own bookkeeping.
inline constexpr uint64_t kReserveBytes = uint64_t{64} << 20;

/// Throws kCuda "out of GPU memory: needed X (what for), free Y of Z" and the context that would fit, if any, else `advice`.
void require_fits(const MemoryNeeds& needs, uint64_t free_bytes, uint64_t total_bytes, const std::string& device_name,
                  std::string_view advice = "--device cpu needs no GPU memory");

/// "1.5 GiB", "640 KiB", "12 bytes".
std::string bytes_text(uint64_t n_bytes);

}  // namespace sj
