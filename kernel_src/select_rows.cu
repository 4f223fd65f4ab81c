// y[0,:] = x[n - 1,:], n = StepState::n_tokens
// x: [kTokens, kCols] f32    y: [1, kCols] f32    one thread four elements    spec: select_rows_spec.cpp
#include "sj_baked.h"

#include "device/ptx.cuh"
#include "device/step.cuh"

#include "args/select_rows.h"

namespace sj {
using namespace baked;

static_assert(kCols % 4 == 0);

extern "C" __global__ void __launch_bounds__(kThreads) sj_select_rows(const SelectRowsArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t quad = blockIdx.x * kThreads + threadIdx.x, n_valid = valid_tokens<kTokens>(args.state);
  if (quad >= kCols / 4 || n_valid == 0) return;
  const size_t from = static_cast<size_t>(n_valid - 1) * (kCols / 4) + quad;
  reinterpret_cast<float4*>(args.y)[quad] = reinterpret_cast<const float4*>(args.x)[from];
}

}  // namespace sj
