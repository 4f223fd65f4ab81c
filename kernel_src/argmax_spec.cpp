#include "kernel_src/argmax_spec.h"

#include <algorithm>

#include "kernel_src/spec_rules.h"

namespace sj {

KernelSpec argmax_spec(const ArgmaxParams& p) {
  require_rule(p.n_vocab != 0, "argmax: the vocabulary is empty");
  require_rule(p.n_ring_slots != 0 && (p.n_ring_slots & (p.n_ring_slots - 1)) == 0,
               "argmax: {} ring slots are not a power of two", p.n_ring_slots);
  constexpr uint32_t kThreads = 256;
  const uint32_t n_blocks = std::min(ceil_div(p.n_vocab, 4 * kThreads), 128u);   // 4 or more logits a thread
  return {.source = "argmax.cu", .entry = "sj_argmax",
          .baked  = {{"kVocab", p.n_vocab}, {"kRingSlots", p.n_ring_slots}, {"kBlocks", n_blocks}, {"kThreads", kThreads}},
          .launch = {.grid = {n_blocks}, .block = {kThreads}},
          .cost   = {.bytes = 4.0 * p.n_vocab, .flops = 1.0 * p.n_vocab}};
}

}  // namespace sj
