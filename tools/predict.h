// How fast a card that is not here would decode: from bytes, launches, and what was measured on another card. A prediction, and
// labelled as one. In: lowered steps, a card. Out: figures and a table. Called by inspect --stage predict.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "jit/device_info.h"
#include "runtime/lowered.h"

namespace sj {

/// What is assumed of a card beyond its profile, and why.
struct CardAssumptions {
  double read_share = 0;   ///< of the peak bandwidth that a plain read reaches
  double edge_us = 0;      ///< between two dependent launches that do nothing, with programmatic launch
  double stage_scale = 1;  ///< time of a stage's own latencies (round trips to L2, barriers), the H200's being 1
  std::string basis;
};
CardAssumptions card_assumptions(const DeviceInfo& device);

struct Prediction {
  uint32_t depth_tokens = 0;
  double bytes = 0;        ///< of device memory a token
  double late_bytes = 0;   ///< of them, what is known only once its predecessors are done: routed experts, keys and values
  uint32_t n_launches = 0;
  double bytes_us = 0;     ///< all bytes at the card's reading speed: no step is faster
  double edges_us = 0;     ///< and the bare edges: what remains when the stages themselves cost nothing
  double slow_us = 0;      ///< every stage waits for all its bytes after its predecessor's latency: nothing overlaps
  double fast_us = 0;      ///< early bytes arrive while other stages run: only late bytes and latencies add up
};

/// Latency a launch, above its bytes, as measured on the H200 with Qwen3-30B-A3B, at the nearest smaller measured depth.
struct StageLatency { double slow_us = 0, fast_us = 0; };
StageLatency measured_stage_latency(uint32_t depth_tokens);

/// `step`: as lowered for `device`, the one that runs at this depth. Throws kUnsupported when the card's bandwidth is unknown.
Prediction predict_decode(const Lowered& step, uint32_t depth_tokens, const DeviceInfo& device);

/// Markdown, one row a depth, with the assumptions below it.
std::string format_predictions(const DeviceInfo& device, std::span<const Prediction> predictions);

}  // namespace sj
