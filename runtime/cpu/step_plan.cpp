#include "runtime/cpu/step_plan.h"

#include <algorithm>
#include <cstddef>

namespace sj {
namespace {

struct FreeRange { uint64_t begin, end; };

/// First fit over a sorted list of free ranges; grows at the end.
class RangeAllocator {
 public:
  uint64_t take(uint64_t n_bytes) {
    for (size_t i = 0; i < free_.size(); ++i) {
      if (free_[i].end - free_[i].begin < n_bytes) continue;
      const uint64_t begin = free_[i].begin;
      free_[i].begin += n_bytes;
      if (free_[i].begin == free_[i].end) free_.erase(free_.begin() + std::ptrdiff_t(i));
      return begin;
    }
    if (!free_.empty() && free_.back().end == end_) {
      const uint64_t begin = free_.back().begin;
      free_.pop_back();
      end_ = begin + n_bytes;
      return begin;
    }
    end_ += n_bytes;
    return end_ - n_bytes;
  }

  void give(uint64_t begin, uint64_t n_bytes) {
    const auto next = std::lower_bound(free_.begin(), free_.end(), begin,
                                       [](const FreeRange& range, uint64_t at) { return range.begin < at; });
    size_t i = size_t(next - free_.begin());
    free_.insert(next, {begin, begin + n_bytes});
    if (i > 0 && free_[i - 1].end == free_[i].begin) {
      free_[i - 1].end = free_[i].end;
      free_.erase(free_.begin() + std::ptrdiff_t(i--));
    }
    if (i + 1 < free_.size() && free_[i].end == free_[i + 1].begin) {
      free_[i].end = free_[i + 1].end;
      free_.erase(free_.begin() + std::ptrdiff_t(i) + 1);
    }
    peak_ = std::max(peak_, end_);
  }

  uint64_t peak() const { return std::max(peak_, end_); }

 private:
  std::vector<FreeRange> free_;
  uint64_t end_ = 0, peak_ = 0;
};

uint64_t value_bytes(const Value& value, uint64_t float_bytes) {
  const uint64_t elem = value.type == ValueType::kF32 ? float_bytes : 4;
  return (value.n_elems() * elem + 63) / 64 * 64;
}

}  // namespace

CpuArenaPlan plan_cpu_arena(const OpGraph& graph, uint64_t float_bytes) {
  std::vector<size_t> last_use(graph.values.size(), 0);
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (ValueId id : graph.ops[i].inputs) last_use[id] = i;
    for (ValueId id : graph.ops[i].outputs) last_use[id] = std::max(last_use[id], i);
  }
  last_use[graph.logits] = graph.ops.size();
  CpuArenaPlan plan{.offset_bytes = std::vector<uint64_t>(graph.values.size(), 0)};
  RangeAllocator arena;
  std::vector<std::vector<ValueId>> dies_at(graph.ops.size() + 1);
  for (ValueId id = 0; id < graph.values.size(); ++id) dies_at[last_use[id]].push_back(id);
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (ValueId id : graph.ops[i].outputs) plan.offset_bytes[id] = arena.take(value_bytes(graph.values[id], float_bytes));
    for (ValueId id : dies_at[i]) arena.give(plan.offset_bytes[id], value_bytes(graph.values[id], float_bytes));
  }
  plan.n_bytes = arena.peak();
  return plan;
}

}  // namespace sj
