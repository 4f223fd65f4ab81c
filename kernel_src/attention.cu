// y[t,h,:] = sum_p w_p V[p,g,:], w = softmax_p(scale * q[t,h,:] . K[p,g,:]), g = h / (kHeads / kHeadsKv), over the keys p
// with 0 <= p_t - p (< kWindow); a sink adds exp(sinks[h]) to the denominator.
// q: [kTokens, kHeads, kHeadDim] f32    y: [kTokens, kHeads * kHeadDim] f32
// K, V: [n_pages][kHeadsKv][kPageTokens][kHeadDim] f16, or f32 (kIsKvF32), logical page i at page_table[i], a row's units
// placed as in device/kv_layout.cuh, or q8_0 (kIsKvQ8): device/kv_q8.cuh
// One block a (head, token). Its warps take tiles of 32 keys in turn, a lane a key for the scores and dims for the sum, each
// with its own running maximum; the block joins the warps' results at the end.    spec: attention_spec.cpp
#include "sj_baked.h"

#include "device/kv_layout.cuh"
#include "device/kv_q8.cuh"
#include "device/ptx.cuh"
#include "device/reduce.cuh"
#include "device/step.cuh"

#include "args/attention.h"

namespace sj {
using namespace baked;

constexpr uint32_t kThreads = kWarps * kWarpLanes;
constexpr uint32_t kTileKeys = kWarpLanes;
constexpr uint32_t kPairs = kHeadDim / 2;
constexpr uint32_t kPairsPerLane = ceil_div(kPairs, kWarpLanes);
static_assert(kHeadDim % (kIsKvQ8 ? 32 : 8) == 0 && kHeads % kHeadsKv == 0);
static_assert(kPageTokens % kTileKeys == 0, "a tile lies in one page");

/// One warp's share of the softmax: sum over its keys of exp(score - maximum), and of the same times V.
struct Partial {
  float maximum, sum;
  float values[2 * kPairsPerLane];
};

/// Rows of one KV head from row `row` on, counted through all pages and KV heads, a multiple of 32. Elem: uint16_t for halves,
/// float, uint8_t for q8_0.
template <class Elem>
struct Tile {
  const Elem* rows;
  __device__ __forceinline__ Tile(const void* pages, size_t row) : rows(static_cast<const Elem*>(pages) + row * kHeadDim) {}
};
template <>
struct Tile<uint8_t> {
  using Page = KvQ8Page<round_up(kHeadDim, 32), kPageTokens>;
  const uint8_t* rows;
  const uint16_t* scales;   ///< [32][kHeadDim / 32]
  __device__ __forceinline__ Tile(const void* pages, size_t row) {
    const uint8_t* const page = static_cast<const uint8_t*>(pages) + row / kPageTokens * Page::kBytes;
    const uint32_t in_page = row % kPageTokens;
    rows = page + in_page * kHeadDim;
    scales = reinterpret_cast<const uint16_t*>(page + Page::kScales + in_page * Page::kScaleRowBytes);
  }
};
template <bool kIsFloat, bool kIsQ8> struct TileOf { using Type = Tile<uint16_t>; };
template <> struct TileOf<true, false> { using Type = Tile<float>; };
template <> struct TileOf<false, true> { using Type = Tile<uint8_t>; };
using KvTile = TileOf<kIsKvF32, kIsKvQ8>::Type;

__device__ __forceinline__ float2 load_pair(const uint16_t* p) {
  const uint32_t v = *reinterpret_cast<const uint32_t*>(p);
  return make_float2(half_to_float(static_cast<uint16_t>(v)), half_to_float(static_cast<uint16_t>(v >> 16)));
}
__device__ __forceinline__ float2 load_pair(const float* p) { return *reinterpret_cast<const float2*>(p); }

/// Dims 2 pair and 2 pair + 1 of row `row` of a tile.
template <class Elem>
__device__ __forceinline__ float2 load_pair(const Tile<Elem>& tile, uint32_t row, uint32_t pair) {
  return load_pair(tile.rows + row * kHeadDim + kv_elem<kHeadDim>(row, 2 * pair));
}
__device__ __forceinline__ float2 load_pair(const Tile<uint8_t>& tile, uint32_t row, uint32_t pair) {
  const uint32_t block = pair / 16, at = row * kHeadDim + 32 * kv_block<kHeadDim>(row, block) + 2 * pair % 32;
  uint32_t halves[2];
  q8_halves(*reinterpret_cast<const uint16_t*>(tile.rows + at), tile.scales[row * (kHeadDim / 32) + block] * 0x10001u, halves);
  return make_float2(half_to_float(static_cast<uint16_t>(halves[0])), half_to_float(static_cast<uint16_t>(halves[0] >> 16)));
}

/// `key` is row `row` of a page.
__device__ __forceinline__ float dot_key(const float* key, uint32_t row, const float* q) {
  float score = 0.0f;
#pragma unroll 4
  for (uint32_t i = 0; i < kHeadDim / 4; ++i) {
    const float4 k = reinterpret_cast<const float4*>(key)[2 * kv_unit<kHeadDim>(row, i / 2) + i % 2];
    const float4 a = reinterpret_cast<const float4*>(q)[i];
    score = fmaf(k.x, a.x, score);
    score = fmaf(k.y, a.y, score);
    score = fmaf(k.z, a.z, score);
    score = fmaf(k.w, a.w, score);
  }
  return score;
}

__device__ __forceinline__ float dot_key(const uint16_t* key, uint32_t row, const float* q) {
  float score = 0.0f;
#pragma unroll 4
  for (uint32_t i = 0; i < kHeadDim / 8; ++i) {
    const uint4 v = reinterpret_cast<const uint4*>(key)[kv_unit<kHeadDim>(row, i)];
    const float4 a = reinterpret_cast<const float4*>(q)[2 * i], b = reinterpret_cast<const float4*>(q)[2 * i + 1];
    score = fmaf(half_to_float(static_cast<uint16_t>(v.x)), a.x, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.x >> 16)), a.y, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.y)), a.z, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.y >> 16)), a.w, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.z)), b.x, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.z >> 16)), b.y, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.w)), b.z, score);
    score = fmaf(half_to_float(static_cast<uint16_t>(v.w >> 16)), b.w, score);
  }
  return score;
}

template <class Elem>
__device__ __forceinline__ float dot_key(const Tile<Elem>& tile, uint32_t row, const float* q) {
  return dot_key(tile.rows + row * kHeadDim, row, q);
}
__device__ __forceinline__ float dot_key(const Tile<uint8_t>& tile, uint32_t row, const float* q) {
  float score = 0.0f;
#pragma unroll 2
  for (uint32_t block = 0; block < kHeadDim / 32; ++block) {
    const uint4* const quants = reinterpret_cast<const uint4*>(tile.rows + row * kHeadDim + 32 * kv_block<kHeadDim>(row, block));
    const uint4 lo = quants[0], hi = quants[1];
    const uint32_t words[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
    const uint32_t scales = tile.scales[row * (kHeadDim / 32) + block] * 0x10001u;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      uint32_t k[2];
      q8_halves(words[i], scales, k);
      const float4 a = reinterpret_cast<const float4*>(q)[8 * block + i];
      score = fmaf(half_to_float(static_cast<uint16_t>(k[0])), a.x, score);
      score = fmaf(half_to_float(static_cast<uint16_t>(k[0] >> 16)), a.y, score);
      score = fmaf(half_to_float(static_cast<uint16_t>(k[1])), a.z, score);
      score = fmaf(half_to_float(static_cast<uint16_t>(k[1] >> 16)), a.w, score);
    }
  }
  return score;
}

/// Adds keys [begin, end) of the tile that starts at position `first`, a multiple of 32; at least one of them is in it.
__device__ __forceinline__ void add_tile(const AttentionArgs& args, uint32_t head_kv, uint32_t first, uint32_t begin,
                                         uint32_t end, const float* q, Partial& p) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const size_t page = static_cast<size_t>(args.page_table[first / kPageTokens]);
  const size_t row = (page * kHeadsKv + head_kv) * kPageTokens + first % kPageTokens;
  const KvTile k_tile(args.k_pages, row), v_tile(args.v_pages, row);
  const uint32_t from = begin > first ? begin - first : 0, to = min_u32(end - first, kTileKeys);

  const bool is_visible = lane >= from && lane < to;
  float score = -kInfinity;
  if (is_visible) score = dot_key(k_tile, lane, q);
  const float maximum = fmaxf(p.maximum, warp_max(score));
  const float rescale = expf(p.maximum - maximum);  // 0 for the first tile
  const float weight = is_visible ? expf(score - maximum) : 0.0f;
  p.maximum = maximum;
  p.sum = p.sum * rescale + weight;
#pragma unroll
  for (uint32_t i = 0; i < 2 * kPairsPerLane; ++i) p.values[i] *= rescale;

#pragma unroll 4
  for (uint32_t key = from; key < to; ++key) {
    const float w = __shfl_sync(kAllLanes, weight, key);
#pragma unroll
    for (uint32_t i = 0; i < kPairsPerLane; ++i) {
      const uint32_t pair = lane + i * kWarpLanes;
      if (pair >= kPairs) continue;
      const float2 v = load_pair(v_tile, key, pair);
      p.values[2 * i] = fmaf(w, v.x, p.values[2 * i]);
      p.values[2 * i + 1] = fmaf(w, v.y, p.values[2 * i + 1]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) sj_attention(const AttentionArgs args) {
  __shared__ __align__(16) float q[kHeadDim];
  __shared__ float values[kWarps][kHeadDim];
  __shared__ float maxima[kWarps], sums[kWarps];
  pdl_trigger();
  pdl_wait();
  const uint32_t head = blockIdx.x, t = blockIdx.y;
  if (t >= valid_tokens<kTokens>(args.state)) return;
  const uint32_t warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  const size_t row = (static_cast<size_t>(t) * kHeads + head) * kHeadDim;
  for (uint32_t i = threadIdx.x; i < kHeadDim; i += kThreads) q[i] = kScale * args.q[row + i];
  __syncthreads();  // q is complete

  const uint32_t end = static_cast<uint32_t>(args.state->position) + t + 1;
  const uint32_t begin = kWindow != 0 && end > kWindow ? end - kWindow : 0;
  Partial p = {-kInfinity, 0.0f, {}};
  for (uint32_t first = (begin / kTileKeys + warp) * kTileKeys; first < end; first += kWarps * kTileKeys)
    add_tile(args, head / (kHeads / kHeadsKv), first, begin, end, q, p);

  const float sum = warp_sum(p.sum);
  if (lane == 0) maxima[warp] = p.maximum, sums[warp] = sum;
#pragma unroll
  for (uint32_t i = 0; i < kPairsPerLane; ++i) {
    const uint32_t pair = lane + i * kWarpLanes;
    if (pair < kPairs) values[warp][2 * pair] = p.values[2 * i], values[warp][2 * pair + 1] = p.values[2 * i + 1];
  }
  __syncthreads();  // every warp's share is in shared memory

  float maximum = kHasSinks ? args.sinks[head] : -kInfinity;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) maximum = fmaxf(maximum, maxima[w]);
  float total = kHasSinks ? expf(args.sinks[head] - maximum) : 0.0f;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) total += sums[w] * expf(maxima[w] - maximum);
  const float inverse = 1.0f / total;
  for (uint32_t i = threadIdx.x; i < kHeadDim; i += kThreads) {
    float y = 0.0f;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) y += values[w][i] * expf(maxima[w] - maximum);
    args.y[row + i] = y * inverse;
  }
}

}  // namespace sj
