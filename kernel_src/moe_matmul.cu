// y[t,s,m] = result_scale[e] * sum_k W[e][m,k] x[t,(s),k] + bias[e,m], e = ids[t,s]
// W: [kExperts][kExpertStrideRows] row records of kCols weights    x: [kTokens, kCols] or [kTokens, kUsed, kCols] f32
// y: [kTokens, kUsed, kRows] f32    a warp a row, kWarps rows of one (token, slot) a block    spec: moe_matmul_spec.cpp
#include "sj_baked.h"

#include "device/row_dot.cuh"
#include "device/step.cuh"

#include "args/moe_matmul.h"

namespace sj {
using namespace baked;

extern "C" __global__ void __launch_bounds__(kWarps * kWarpLanes) sj_moe_matmul(const MoeMatmulArgs args) {
  __shared__ __align__(16) float tile[VectorTile<kCols, 1>::kFloats];
  pdl_trigger();
  pdl_wait();
  const uint32_t slot = blockIdx.y, t = blockIdx.z;
  if (t >= valid_tokens<kTokens>(args.state)) return;
  const size_t pair = static_cast<size_t>(t) * kUsed + slot;
  const uint32_t expert = min_u32(static_cast<uint32_t>(args.ids[pair]), kExperts - 1);
  const uint32_t row = blockIdx.x * kWarps + threadIdx.x / kWarpLanes;
  const size_t record = static_cast<size_t>(expert) * kExpertStrideRows + min_u32(row, kRows - 1);
  const uint8_t* weight_row = args.weight + record * kRowBytes;
  float w[32];
  load_first_chunk<kDtype, kCols>(weight_row, w);

  float acc[1];
  const float* x = args.x + (kIsXPerSlot ? pair : static_cast<size_t>(t)) * kCols;
  row_dot<kDtype, kCols, 1, kWarps * kWarpLanes>(weight_row, w, x, 1, tile, acc);

  if (row >= kRows || threadIdx.x % kWarpLanes != 0) return;
  float y = acc[0];
  if constexpr (kHasResultScale) y *= args.result_scale[expert];
  if constexpr (kHasBias) y += args.bias[static_cast<size_t>(expert) * kRows + row];
  args.y[pair * kRows + row] = y;
}

}  // namespace sj
