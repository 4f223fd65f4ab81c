// The router's scores Wr (x * norm), where the stage that finished x did not add them up itself (decode_gemv.cu). The norm's
// weights are multiplied into the rows before the dependency wait.    x: [kCols] f32    kBlockRows experts a block    spec:
// decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/router_scores.cuh"

#include "args/decode_router.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes, kQuads = kCols / 4, kEach = ceil_div(kQuads, kThreads);
static_assert(kCols % 4 == 0 && kExperts % kBlockRows == 0);

__device__ __forceinline__ float dot4(const float4& a, const float4& b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

extern "C" __global__ void __launch_bounds__(kThreads) sj_decode_router(const DecodeRouterArgs args) {
  __shared__ float partial[kWarps][kBlockRows];
  const uint32_t first_row = blockIdx.x * kBlockRows;
  float4 w[kBlockRows][kEach];
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t quad = i * kThreads + threadIdx.x;
    const bool live = kQuads % kThreads == 0 || quad < kQuads;
    const float4 norm = live ? reinterpret_cast<const float4*>(args.norm)[quad] : make_float4(0, 0, 0, 0);
#pragma unroll
    for (uint32_t r = 0; r < kBlockRows; ++r) {
      const float4 v = reinterpret_cast<const float4*>(args.weights + static_cast<size_t>(first_row + r) * kCols * 4)[live ? quad : 0];
      w[r][i] = make_float4(v.x * norm.x, v.y * norm.y, v.z * norm.z, v.w * norm.w);
    }
  }
  pdl_wait();
  pdl_trigger();
  float sums[kBlockRows] = {};
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t quad = i * kThreads + threadIdx.x;
    float4 x = make_float4(0, 0, 0, 0);
    if (kQuads % kThreads == 0 || quad < kQuads) {
      const uint4 bits = ld_cg_v4(args.x + 4 * quad);
      x = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w));
    }
#pragma unroll
    for (uint32_t r = 0; r < kBlockRows; ++r) sums[r] += dot4(x, w[r][i]);
  }
#pragma unroll
  for (uint32_t r = 0; r < kBlockRows; ++r) {
    const float sum = warp_sum(sums[r]);
    if (lane_idx() == 0) partial[warp_idx()][r] = sum;
  }
  __syncthreads();  // every warp's sums are in shared memory
  if (threadIdx.x < kBlockRows) {
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kWarps; ++i) sum += partial[i][threadIdx.x];
    args.scores[score_index(first_row + threadIdx.x)] = score_of(sum);
  }
}

}  // namespace sj
