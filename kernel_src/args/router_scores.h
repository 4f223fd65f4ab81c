// Where a router's scores lie, for host and device. Many blocks add to them at once (device/router_scores.cuh): groups of 4 experts,
// which one lane reads, lie apart, so that different parts of the L2 cache do the additions.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace sj {

inline constexpr uint32_t kScoreGroup = 4, kScoreGroupStride = 32;   ///< experts; int64 from one group to the next

constexpr uint32_t score_index(uint32_t expert) { return expert / kScoreGroup * kScoreGroupStride + expert % kScoreGroup; }
/// int64 of the scores of so many experts.
constexpr uint32_t n_score_slots(uint32_t n_experts) { return (n_experts + kScoreGroup - 1) / kScoreGroup * kScoreGroupStride; }

}  // namespace sj
