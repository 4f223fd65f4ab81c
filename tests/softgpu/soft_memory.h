// Device memory of the software GPU: one reserved address range, allocations with red zones, and pinned host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace softgpu {

inline constexpr uint64_t kRedZoneBytes = 256;

struct Allocation {
  uint64_t address, size_bytes;
  uint64_t idx;  ///< how many allocations came before
  bool is_pinned;
};

class Memory {
 public:
  static Memory& instance();

  /// nullopt when it does not fit.
  std::optional<uint64_t> allocate(uint64_t n_bytes);
  bool release(uint64_t address);
  std::optional<uint64_t> allocate_pinned(uint64_t n_bytes);
  bool release_pinned(uint64_t address);

  uint64_t used_bytes();
  uint64_t total_bytes() const;
  /// The allocation that holds all of [address, address + n_bytes).
  std::optional<Allocation> find(uint64_t address, uint64_t n_bytes);
  /// What lies nearest to `address`, for messages.
  std::string describe(uint64_t address);
  bool in_range(uint64_t address) const { return address - base_ < reserved_bytes_; }

 private:
  Memory();
  std::optional<uint64_t> place(uint64_t n_bytes, bool is_pinned);
  bool take_back(uint64_t address, bool is_pinned);
  std::mutex mutex_;
  uint64_t base_ = 0, reserved_bytes_ = 0, cursor_ = 0, used_ = 0, count_ = 0;
  std::map<uint64_t, Allocation> live_;  ///< by address, pinned included
};

}  // namespace softgpu
