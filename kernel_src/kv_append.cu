// K[page(p)][h][p mod kPageTokens][:] = f16(k[t,h,:]), the same for V; p = StepState::position + t
// k, v: [kTokens, kHeadsKv, kHeadDim] f32    K, V: [n_pages][kHeadsKv][kPageTokens][kHeadDim] f16, or f32 (kIsKvF32), with
// a row's units placed as in device/kv_layout.cuh, or q8_0 (kIsKvQ8): device/kv_q8.cuh
// one thread 8 elements of k and of v    spec: kv_append_spec.cpp
#include "sj_baked.h"

#include "device/kv_layout.cuh"
#include "device/kv_q8.cuh"
#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/kv_append.h"

namespace sj {
using namespace baked;

constexpr uint32_t kPieces = kHeadDim / 8;
static_assert(kHeadDim % (kIsKvQ8 ? 32 : 8) == 0 && kThreads % kWarpLanes == 0);

__device__ __forceinline__ void store_8_halves(uint16_t* to, const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  *reinterpret_cast<uint4*>(to) = make_uint4(float_to_half2(a.x, a.y), float_to_half2(a.z, a.w), float_to_half2(b.x, b.y),
                                             float_to_half2(b.z, b.w));
}

__device__ __forceinline__ void copy_8_floats(float* to, const float* from) {
  reinterpret_cast<float4*>(to)[0] = reinterpret_cast<const float4*>(from)[0];
  reinterpret_cast<float4*>(to)[1] = reinterpret_cast<const float4*>(from)[1];
}

/// 8 values of a row, in a block that four lanes in a row have. All lanes of the warp call it.
__device__ __forceinline__ void store_8_quants(uint8_t* page, uint32_t row, uint32_t piece, const float* from, bool is_live) {
  using Page = KvQ8Page<round_up(kHeadDim, 32), kPageTokens>;
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  const uint32_t largest = group_max<4>(max_magnitude(max_magnitude(0, a), b)), block = piece / 4;
  if (!is_live) return;
  const uint32_t at = row * kHeadDim + 32 * kv_block<kHeadDim>(row, block) + 8 * (piece % 4);
  *reinterpret_cast<uint2*>(page + at) = make_uint2(q8_quants(a, largest), q8_quants(b, largest));
  if (piece % 4 == 0) reinterpret_cast<uint16_t*>(page + Page::kScales + row * Page::kScaleRowBytes)[block] = q8_scale(largest);
}

__device__ __forceinline__ void append_quants(const KvAppendArgs& args, uint32_t item, uint32_t t) {
  using Page = KvQ8Page<round_up(kHeadDim, 32), kPageTokens>;
  const bool is_live = item < kHeadsKv * kPieces;
  const uint32_t head = is_live ? item / kPieces : 0, piece = item % kPieces;
  const uint32_t position = static_cast<uint32_t>(args.state->position) + t;
  const size_t page = (static_cast<size_t>(args.page_table[position / kPageTokens]) * kHeadsKv + head) * Page::kBytes;
  const size_t from = (static_cast<size_t>(t) * kHeadsKv + head) * kHeadDim + piece * 8;
  store_8_quants(reinterpret_cast<uint8_t*>(args.k_pages) + page, position % kPageTokens, piece, args.k + from, is_live);
  store_8_quants(reinterpret_cast<uint8_t*>(args.v_pages) + page, position % kPageTokens, piece, args.v + from, is_live);
}

extern "C" __global__ void __launch_bounds__(kThreads) sj_kv_append(const KvAppendArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x, t = blockIdx.y;
  if constexpr (kIsKvQ8) {
    if (t < valid_tokens<kTokens>(args.state)) append_quants(args, item, t);
    return;
  }
  if (item >= kHeadsKv * kPieces || t >= valid_tokens<kTokens>(args.state)) return;
  const uint32_t head = item / kPieces, piece = item % kPieces;
  const uint32_t position = static_cast<uint32_t>(args.state->position) + t;
  const size_t page = static_cast<size_t>(args.page_table[position / kPageTokens]);
  const uint32_t row = position % kPageTokens;
  const size_t to = ((page * kHeadsKv + head) * kPageTokens + row) * kHeadDim + 8 * kv_unit<kHeadDim>(row, piece);
  const size_t from = (static_cast<size_t>(t) * kHeadsKv + head) * kHeadDim + piece * 8;
  if constexpr (kIsKvF32) {
    copy_8_floats(reinterpret_cast<float*>(args.k_pages) + to, args.k + from);
    copy_8_floats(reinterpret_cast<float*>(args.v_pages) + to, args.v + from);
  } else {
    store_8_halves(args.k_pages + to, args.k + from);
    store_8_halves(args.v_pages + to, args.v + from);
  }
}

}  // namespace sj
