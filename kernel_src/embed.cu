// y[t,:] = scale * E[token[t],:]
// E: [kVocab] row records of kCols weights    y: [kTokens, kCols] f32    one block a token, one thread a chunk of 32
// spec: embed_spec.cpp
#include "sj_baked.h"

#include "device/step.cuh"
#include "device/weight_rows.cuh"

#include "args/embed.h"

namespace sj {
using namespace baked;

static_assert(kCols % 4 == 0 && kThreads % kWarpLanes == 0);
static_assert(!kIsTokenFromState || kTokens == 1, "StepState holds one token");

__device__ __forceinline__ void store_chunk(float* y, uint32_t chunk, const float (&w)[32]) {
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t col = chunk * kChunkWeights + i * 4;
    if (col < kCols)
      *reinterpret_cast<float4*>(y + col) =
          make_float4(kScale * w[4 * i], kScale * w[4 * i + 1], kScale * w[4 * i + 2], kScale * w[4 * i + 3]);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads) sj_embed(const EmbedArgs args) {
  pdl_trigger();
  pdl_wait();
  const uint32_t t = blockIdx.x;
  if (t >= valid_tokens<kTokens>(args.state)) return;
  const uint32_t token = static_cast<uint32_t>(kIsTokenFromState ? args.state->token : args.tokens[t]);
  const bool is_known = token < kVocab;
  const uint8_t* row = args.table + static_cast<size_t>(is_known ? token : 0) * kRowBytes;
  float* y = args.y + static_cast<size_t>(t) * kCols;
  for (uint32_t chunk = threadIdx.x; chunk < ceil_div(kCols, kChunkWeights); chunk += kThreads) {
    float w[32];
    dequant_chunk<kDtype>(row, kCols, chunk, w);
    if (!is_known) {
#pragma unroll
      for (int i = 0; i < 32; ++i) w[i] = __uint_as_float(0x7FC00000u);
    }
    store_chunk(y, chunk, w);
  }
}

}  // namespace sj
