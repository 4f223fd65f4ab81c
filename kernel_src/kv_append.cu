// K[page(p)][h][p mod kPageTokens][:] = f16(k[t,h,:]), the same for V; p = StepState::position + t
// k, v: [kTokens, kHeadsKv, kHeadDim] f32    K, V: [n_pages][kHeadsKv][kPageTokens][kHeadDim] f16, or f32 (kIsKvF32), with
// a row's units placed as in device/kv_layout.cuh
// one thread 8 elements of k and of v    spec: kv_append_spec.cpp
#include "sj_baked.h"

#include "device/kv_layout.cuh"
#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/kv_append.h"

namespace sj {
using namespace baked;

constexpr uint32_t kPieces = kHeadDim / 8;
static_assert(kHeadDim % 8 == 0);

__device__ __forceinline__ void store_8_halves(uint16_t* to, const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  *reinterpret_cast<uint4*>(to) = make_uint4(float_to_half2(a.x, a.y), float_to_half2(a.z, a.w), float_to_half2(b.x, b.y),
                                             float_to_half2(b.z, b.w));
}

__device__ __forceinline__ void copy_8_floats(float* to, const float* from) {
  reinterpret_cast<float4*>(to)[0] = reinterpret_cast<const float4*>(from)[0];
  reinterpret_cast<float4*>(to)[1] = reinterpret_cast<const float4*>(from)[1];
}

extern "C" __global__ void __launch_bounds__(kThreads) sj_kv_append(const KvAppendArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x, t = blockIdx.y;
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
