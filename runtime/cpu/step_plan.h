// Where each value of a step's graph lies in the interpreter's arena; a value's room is reused after its last reader.
// In: OpGraph. Out: offsets. Called by the interpreter.
#pragma once

#include <cstdint>
#include <vector>

#include "models/op_graph.h"

namespace sj {

struct CpuArenaPlan {
  std::vector<uint64_t> offset_bytes;   ///< by ValueId; multiples of 64
  uint64_t n_bytes = 0;
};

/// `float_bytes`: size of one kF32 element (4 or 8; kI32 elements take 4). Values that live at the same time never overlap,
/// inputs and outputs of one op included. The logits live to the end.
CpuArenaPlan plan_cpu_arena(const OpGraph& graph, uint64_t float_bytes);

}  // namespace sj
