// Brings a residual stream that no decode stage finished (the embedding, or a generic kernel's result) into the form that
// decode stages read.    x, y: [kRows] f32    next: NormedVec<kRows>    a warp 16 rows    spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"

#include "args/decode_input.h"

namespace sj {
using namespace baked;

static_assert(kRows % 16 == 0);

extern "C" __global__ void __launch_bounds__(kWarpLanes) sj_decode_input(const DecodeInputArgs args) {
  pdl_trigger();
  const uint32_t row = blockIdx.x * 16 + threadIdx.x % 16;
  const float norm = args.next_norm[row];
  pdl_wait();
  finish_rows<kRows>(load_float(args.x + row), norm, blockIdx.x * 16, args.y, static_cast<NormedVec<kRows>*>(args.next));
}

}  // namespace sj
