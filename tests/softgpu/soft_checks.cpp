#include "softgpu/soft_checks.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace softgpu {

namespace {

constexpr uint16_t kLanesOfWarp = 0x8000;  ///< reader: several lanes of the warp in the low bits
constexpr uint16_t kManyWarps = 0xffff;

std::map<uint64_t, std::string>& launch_names() {
  static auto* const names = new std::map<uint64_t, std::string>;
  return *names;
}

std::string thread_text(uint16_t id) {
  if (id == kManyWarps) return "several warps";
  if (id & kLanesOfWarp) return "several lanes of warp " + std::to_string(id & 0x7fff);
  return "thread " + std::to_string(id);
}

}  // namespace

void remember_launch(uint64_t launch_idx, const std::string& name) {
  auto& names = launch_names();
  names[launch_idx] = name;
  if (names.size() > 4096) names.erase(names.begin());
}

std::string launch_name(uint64_t launch_idx) {
  const auto it = launch_names().find(launch_idx);
  return (it == launch_names().end() ? std::string("a kernel") : it->second) + " (launch " + std::to_string(launch_idx) + ")";
}

// ---- device memory

DeviceShadow& DeviceShadow::instance() {
  static auto* const shadow = new DeviceShadow;
  return *shadow;
}

void DeviceShadow::cover(uint64_t base, uint64_t n_bytes) {
  if (!kIsChecked) return;
  void* const p = ::mmap(nullptr, n_bytes / 4 * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "# softcuda: no address space for the shadow of device memory\n");
    std::abort();
  }
  base_ = base;
  cells_ = static_cast<Cell*>(p);
}

template <class Fn>
void DeviceShadow::each(uint64_t address, uint64_t n_bytes, Fn fn) {
  const uint64_t end = address + n_bytes;
  for (uint64_t at = address; at < end;) {
    const uint64_t first = at % 4, last = std::min<uint64_t>(4, first + end - at);
    fn(*cell(at), ((1u << last) - 1u) & ~((1u << first) - 1u));
    at += last - first;
  }
}

void DeviceShadow::allocated(uint64_t address, uint64_t n_bytes, bool is_host_visible) {
  if (!kIsChecked) return;
  each(address, n_bytes, [&](Cell& c, uint32_t bytes) {
    c.launch = 0, c.block = 0, c.is_atomic = 0;
    c.is_host_visible = is_host_visible;
    c.is_valid |= bytes & 15;
    c.has_value = is_host_visible ? 15 : c.has_value & ~bytes;
  });
}

void DeviceShadow::freed(uint64_t address, uint64_t n_bytes) {
  if (!kIsChecked) return;
  each(address, n_bytes, [](Cell& c, uint32_t) { c = {}; });
}

void DeviceShadow::host_wrote(uint64_t address, uint64_t n_bytes, bool has_value) {
  if (!kIsChecked) return;
  each(address, n_bytes, [&](Cell& c, uint32_t bytes) {
    c.launch = 0;
    c.is_atomic = 0;
    c.has_value = has_value || c.is_host_visible ? c.has_value | bytes : c.has_value & ~bytes;
  });
}

void DeviceShadow::host_copied(uint64_t dst, uint64_t src, uint64_t n_bytes) {
  if (!kIsChecked) return;
  for (uint64_t i = 0; i < n_bytes; ++i)
    host_wrote(dst + i, 1, cell(src + i)->has_value >> ((src + i) % 4) & 1);
}

void DeviceShadow::launch_begins(uint64_t n_blocks) {
  if (kIsChecked) has_done_atomic_.assign(n_blocks, false);
}

std::string DeviceShadow::check(uint64_t address, uint64_t n_bytes, AccessKind kind, const Reader& me) {
  const bool is_write = kind == AccessKind::kWrite, is_atomic = kind == AccessKind::kAtomic;
  const bool is_read = !is_write;
  const uint32_t my_block = me.block_idx & 0x3ffff;
  if (is_atomic && me.block_idx < has_done_atomic_.size()) has_done_atomic_[me.block_idx] = true;
  const bool is_early = me.complete_to + 1 < me.launch_idx && me.also_complete + 1 != me.launch_idx;
  std::string problem;
  each(address, n_bytes, [&](Cell& c, uint32_t bytes) {
    if (!problem.empty()) return;
    if ((c.is_valid & bytes) != bytes) {
      problem = "out of bounds";
      return;
    }
    if (is_read && (c.has_value & bytes) != bytes) {
      problem = "reads memory that nothing has written";
      return;
    }
    const bool is_other = c.launch != static_cast<uint32_t>(me.launch_idx);
    if (c.launch != 0 && is_other && c.launch > me.complete_to && c.launch != me.also_complete) {
      problem = std::string(is_write ? "overwrites" : "reads") + " what " + launch_name(c.launch) +
                " wrote, which may still run: no griddepcontrol.wait before it";
      return;
    }
    if (!me.may_race && c.launch != 0 && !is_other && c.block != my_block && (c.by_block & bytes) != 0 && !(is_atomic && c.is_atomic)) {
      // Atomics of both blocks may have ordered them: a counter that the last block sees.
      const bool may_be_ordered = c.block < has_done_atomic_.size() && has_done_atomic_[c.block] && has_done_atomic_[me.block_idx];
      if (!may_be_ordered)
        problem = std::string(kBlockRace) + ": block " + std::to_string(c.block) + " of this launch wrote it, and nothing orders the two";
    }
    if (is_write || is_atomic) {
      c.by_block = is_other || c.block != my_block ? bytes & 15 : c.by_block | (bytes & 15);
      c.launch = static_cast<uint32_t>(me.launch_idx);
      c.block = my_block;
      c.is_atomic = is_atomic;
      c.has_value |= bytes & 15;
    }
  });
  if (problem.empty() && is_write && is_early) problem = "writes device memory before griddepcontrol.wait: an earlier kernel may still use it";
  return problem;
}

// ---- shared memory

void SharedShadow::cover(uint64_t n_bytes) {
  if (cells_.size() < n_bytes) cells_.resize(n_bytes);
}

bool SharedShadow::is_ordered(uint16_t other, uint16_t other_sync, const Thread& me) {
  if (other == me.idx) return true;
  if (other == kManyWarps) return false;
  const uint16_t warp = other & kLanesOfWarp ? other & 0x7fff : other / 32;
  return warp == me.idx / 32 && other_sync < me.sync;
}

void SharedShadow::take_values(uint64_t offset, uint64_t n_bytes) {
  for (uint64_t i = 0; i < n_bytes; ++i) cells_[offset + i].write_epoch = 0;
}

std::string SharedShadow::check(uint64_t offset, uint64_t n_bytes, AccessKind kind, const Thread& me, bool may_be_unwritten) {
  const bool is_atomic = kind == AccessKind::kAtomic, is_write = kind == AccessKind::kWrite || is_atomic;
  for (uint64_t i = 0; i < n_bytes; ++i) {
    Cell& c = cells_[offset + i];
    const bool is_written_now = c.write_epoch == epoch_ && !(is_atomic && c.is_atomic);
    if (is_written_now && !is_ordered(c.writer, c.write_sync, me))
      return "shared memory race: " + thread_text(c.writer) + " wrote it, and no barrier stands between";
    if (is_write && c.read_epoch == epoch_ && !(is_atomic && c.is_atomic) && !is_ordered(c.reader, c.read_sync, me))
      return "shared memory race: " + thread_text(c.reader) + " read it, and no barrier stands between";
    if (kind != AccessKind::kWrite && !may_be_unwritten && c.write_epoch < first_epoch_) return "reads shared memory that nothing has written";
    if (is_write) {
      c.write_epoch = epoch_;
      c.writer = me.idx;
      c.write_sync = me.sync;
      c.is_atomic = is_atomic;
    }
    if (!is_write) {
      const bool is_first = c.read_epoch != epoch_;
      const uint16_t warp = me.idx / 32;
      if (is_first || c.reader == me.idx) c.reader = me.idx;
      else if (c.reader != kManyWarps && (c.reader & kLanesOfWarp ? c.reader & 0x7fff : c.reader / 32) == warp)
        c.reader = static_cast<uint16_t>(kLanesOfWarp | warp);
      else c.reader = kManyWarps;
      c.read_epoch = epoch_;
      c.read_sync = is_first ? me.sync : std::max(c.read_sync, me.sync);
    }
  }
  return {};
}

}  // namespace softgpu
