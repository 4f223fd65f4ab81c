#include "softgpu/soft_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "softgpu/soft_checks.h"
#include "softgpu/soft_config.h"

#if defined(SOFT_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace softgpu {
namespace {

constexpr uint64_t kAlignment = 512;
constexpr uint64_t kFilledBytes = 256ull << 20;  ///< allocations up to this size start with a pattern instead of zeros

/// AddressSanitizer's own macro does nothing in a file that is not sanitized itself.
void poison([[maybe_unused]] uint64_t address, [[maybe_unused]] uint64_t n_bytes) {
#if defined(SOFT_ASAN)
  __asan_poison_memory_region(reinterpret_cast<void*>(address), n_bytes);
#endif
}

uint64_t round_up(uint64_t v, uint64_t to) { return (v + to - 1) / to * to; }

}  // namespace

Memory& Memory::instance() {
  static Memory* const memory = new Memory;  // outlives every static destructor of the host program
  return *memory;
}

Memory::Memory() {
  // Addresses are not used again before the range is used up: a stale pointer hits nothing.
  reserved_bytes_ = std::max<uint64_t>(config().memory_bytes * 2, 64ull << 30);
  void* const p = ::mmap(nullptr, reserved_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) reserved_bytes_ = 0;
  base_ = reinterpret_cast<uint64_t>(p);
  cursor_ = base_ + (1ull << 21);
  DeviceShadow::instance().cover(base_, reserved_bytes_);
}

uint64_t Memory::total_bytes() const { return config().memory_bytes; }

uint64_t Memory::used_bytes() {
  const std::lock_guard lock(mutex_);
  return used_;
}

/// Addresses for `n_bytes` that were not used before, with a red zone on both sides.
std::optional<uint64_t> Memory::place(uint64_t n_bytes, bool is_pinned) {
  const uint64_t alignment = is_pinned ? 4096 : kAlignment;
  const uint64_t address = round_up(cursor_ + kRedZoneBytes, alignment);
  const uint64_t end = round_up(address + n_bytes + kRedZoneBytes, kAlignment);
  if (end > base_ + reserved_bytes_) return std::nullopt;
  poison(cursor_, address - cursor_);
  poison(address + n_bytes, end - address - n_bytes);
  cursor_ = end;
  live_[address] = {address, n_bytes, count_++, is_pinned};
  DeviceShadow::instance().allocated(address, n_bytes, is_pinned);
  return address;
}

bool Memory::take_back(uint64_t address, bool is_pinned) {
  const auto it = live_.find(address);
  if (it == live_.end() || it->second.is_pinned != is_pinned) return false;
  const uint64_t n_bytes = it->second.size_bytes;
  const uint64_t first = round_up(address, 4096), last = (address + n_bytes) / 4096 * 4096;
  if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  DeviceShadow::instance().freed(address, n_bytes);
  poison(address, n_bytes);
  if (!is_pinned) used_ -= n_bytes;
  live_.erase(it);
  return true;
}

std::optional<uint64_t> Memory::allocate(uint64_t n_bytes) {
  const std::lock_guard lock(mutex_);
  if (n_bytes == 0 || n_bytes > total_bytes() || used_ + n_bytes > total_bytes()) return std::nullopt;
  const std::optional<uint64_t> address = place(n_bytes, false);
  if (!address) return std::nullopt;
  used_ += n_bytes;
  if (n_bytes <= kFilledBytes) std::memset(reinterpret_cast<void*>(*address), 0xA5, n_bytes);
  return address;
}

bool Memory::release(uint64_t address) {
  const std::lock_guard lock(mutex_);
  return take_back(address, false);
}

std::optional<uint64_t> Memory::allocate_pinned(uint64_t n_bytes) {
  const std::lock_guard lock(mutex_);
  return n_bytes == 0 ? std::nullopt : place(n_bytes, true);
}

bool Memory::release_pinned(uint64_t address) {
  const std::lock_guard lock(mutex_);
  return take_back(address, true);
}

std::optional<Allocation> Memory::find(uint64_t address, uint64_t n_bytes) {
  const std::lock_guard lock(mutex_);
  auto it = live_.upper_bound(address);
  if (it == live_.begin()) return std::nullopt;
  const Allocation& found = (--it)->second;
  if (address - found.address > found.size_bytes || found.size_bytes - (address - found.address) < n_bytes) return std::nullopt;
  return found;
}

std::string Memory::describe(uint64_t address) {
  const std::lock_guard lock(mutex_);
  auto it = live_.upper_bound(address);
  const Allocation* below = it == live_.begin() ? nullptr : &std::prev(it)->second;
  const Allocation* above = it == live_.end() ? nullptr : &it->second;
  const auto name = [](const Allocation& a) {
    return (a.is_pinned ? "pinned allocation " : "allocation ") + std::to_string(a.idx) + " of " + std::to_string(a.size_bytes) +
           " bytes";
  };
  if (below != nullptr && address < below->address + below->size_bytes)
    return "byte " + std::to_string(address - below->address) + " of " + name(*below);
  const uint64_t past = below == nullptr ? ~0ull : address - below->address - below->size_bytes;
  const uint64_t before = above == nullptr ? ~0ull : above->address - address;
  if (past <= before && past < (1ull << 30)) return std::to_string(past) + " bytes past the end of " + name(*below);
  if (before < (1ull << 30)) return std::to_string(before) + " bytes before " + name(*above);
  return "in no allocation";
}

}  // namespace softgpu
