// ids[t,:] = the kUsed experts of the largest logits, descending, ties by lower id; weights[t,:] = softmax over their logits
// logits: [kTokens, kExperts] f32    ids: [kTokens, kUsed] i32    weights: [kTokens, kUsed] f32
// a warp a token; lane l holds experts l, l + 32, ...    spec: route_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/reduce.cuh"
#include "device/step.cuh"

#include "args/route.h"

namespace sj {
using namespace baked;

constexpr uint32_t kPerLane = ceil_div(kExperts, kWarpLanes);
static_assert(kPerLane <= 16 && kUsed <= kWarpLanes && kUsed <= kExperts);

extern "C" __global__ void __launch_bounds__(kWarps * kWarpLanes) sj_route(const RouteArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t t = blockIdx.x * kWarps + threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  if (t >= valid_tokens<kTokens>(args.state)) return;
  const float* logits = args.logits + static_cast<size_t>(t) * kExperts;
  uint64_t keys[kPerLane];  // 0: none left
#pragma unroll
  for (uint32_t i = 0; i < kPerLane; ++i) {
    const uint32_t expert = lane + i * kWarpLanes;
    keys[i] = expert < kExperts ? argmax_key(logits[expert], expert) : 0;
  }

  uint32_t my_id = 0;  // lane s keeps choice s
#pragma unroll 1
  for (uint32_t s = 0; s < kUsed; ++s) {
    uint64_t best = 0;
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) best = keys[i] > best ? keys[i] : best;
    best = warp_max(best);
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) keys[i] = keys[i] == best ? 0 : keys[i];
    if (lane == s) my_id = argmax_index(best);
  }

  const float logit = lane < kUsed ? logits[my_id] : -kInfinity;
  const float largest = __shfl_sync(kAllLanes, logit, 0);
  const float e = lane < kUsed ? expf(logit - largest) : 0.0f;
  const float sum = warp_sum(e);
  if (lane >= kUsed) return;
  args.ids[static_cast<size_t>(t) * kUsed + lane] = static_cast<int32_t>(my_id);
  args.weights[static_cast<size_t>(t) * kUsed + lane] = e / sum;
}

}  // namespace sj
