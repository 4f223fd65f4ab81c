// One decode stage between the q, k, v projections and the output projection: per-head RMSNorm of q and k, rotary embedding,
// append to the KV cache, attention, quantised output.
//   o_h = sum_t softmax_t(kScale * q_h . k_t) v_t over the cached tokens and the new one
// Grid: (splits, head groups); a head group is up to 8 query heads of one KV head. The pages that are visible are shared out
// evenly among the splits; a block's warps take 16 tokens of each page and a part of the dims. Cached pages are requested
// before the dependency wait: only this kernel writes the cache, in the step before.
// q and the softmax weights are split in two halves each (x = hi + lo, both f16), which fill the 16 rows of the tensor
// core's tile: products are as exact as in f32.    Splits meet first in their cluster, then through global memory.
// spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/rotation.cuh"

#include "args/decode_attention.h"
#include "args/step_state.h"

namespace sj {
using namespace baked;

constexpr uint32_t kTokenWarps = kPageTokens / 16, kWarps = kTokenWarps * kDimParts, kThreads = kWarps * kWarpLanes;
constexpr uint32_t kPartDims = kHeadDim / kDimParts;            // dims of o that a warp sums up
constexpr uint32_t kHeadsPerKv = kHeads / kHeadsKv, kHeadGroups = ceil_div(kHeadsPerKv, 8), kGroupHeads = min_u32(kHeadsPerKv, 8);
constexpr uint32_t kUnits = kHeadDim / 8;                       // 16-byte units of a row
constexpr uint32_t kTileBytes = kPageTokens * kHeadDim * 2;     // K or V of a page
constexpr uint32_t kStep = kHeadDim / 16, kPairs = kHeadDim / 2, kPairsEach = ceil_div(kPairs, kWarpLanes);
static_assert(kPageTokens == 64 && kHeadDim % 32 == 0 && kUnits % 4 == 0 && kPartDims % 16 == 0);
static_assert(kHeadsPerKv % kGroupHeads == 0 && 8 % kCluster == 0);
constexpr uint32_t kSplits = kCluster * kGroups;

constexpr uint32_t kOwnHeads = 8 / kCluster;   // heads that a block of a cluster joins

/// Shares of the softmax that the blocks of the cluster send to the one that joins these heads: o is not normalised,
/// l = sum of exp2(s - m).
struct Shares {
  float o[kCluster][kOwnHeads][kHeadDim];
  float m[kCluster][kOwnHeads], l[kCluster][kOwnHeads];
};

struct Shared {
  uint16_t q[16][kHeadDim];   // rows 0..7: high halves of the heads, 8..15: low halves; swizzled
  float warp_m[kTokenWarps][8], warp_l[kTokenWarps][8];
  Shares shares;
  uint32_t is_last;
};

/// Rows are read eight at a time by ldmatrix: unit u of row r lies at u ^ (r % 8), so that they fall into different banks.
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t unit) { return row * kUnits + (unit ^ (row % 8)); }

/// First and second dim of pair p, and whether it is rotated.
__device__ __forceinline__ uint32_t first_dim(uint32_t p) {
  return kIsInterleaved ? 2 * p : p < kRot / 2 ? p : kRot + 2 * (p - kRot / 2);
}
__device__ __forceinline__ uint32_t second_dim(uint32_t p) {
  return kIsInterleaved ? 2 * p + 1 : p < kRot / 2 ? p + kRot / 2 : first_dim(p) + 1;
}

/// A head's vector in a warp: lane l holds pairs l, l + 32, ...
struct HeadVec {
  float a[kPairsEach], b[kPairsEach];
};

__device__ __forceinline__ HeadVec load_head(const float* from) {
  HeadVec v;
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    const bool live = kPairs % kWarpLanes == 0 || p < kPairs;
    v.a[i] = live ? load_float(from + first_dim(p)) : 0.0f;
    v.b[i] = live ? load_float(from + second_dim(p)) : 0.0f;
  }
  return v;
}

/// Norm weights, from before the dependency wait.
__device__ __forceinline__ HeadVec load_norm(const float* norm) {
  HeadVec v;
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = min_u32(i * kWarpLanes + lane_idx(), kPairs - 1);
    v.a[i] = kHasQkNorm ? norm[first_dim(p)] : 1.0f;
    v.b[i] = kHasQkNorm ? norm[second_dim(p)] : 1.0f;
  }
  return v;
}

__device__ __forceinline__ void norm_and_rotate(HeadVec& v, const HeadVec& norm, const Rotation (&rotation)[kPairsEach]) {
  float factor = 1.0f;
  if constexpr (kHasQkNorm) {
    float squares = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kPairsEach; ++i) squares += v.a[i] * v.a[i] + v.b[i] * v.b[i];
    factor = rsqrtf(warp_sum(squares) * (1.0f / kHeadDim) + kEps);
  }
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    if (kPairs % kWarpLanes != 0 && p >= kPairs) continue;
    float a = v.a[i], b = v.b[i];
    if constexpr (kHasQkNorm) a *= factor * norm.a[i], b *= factor * norm.b[i];
    v.a[i] = a * rotation[i].cosine - b * rotation[i].sine;
    v.b[i] = a * rotation[i].sine + b * rotation[i].cosine;
  }
}

__device__ __forceinline__ void store_half(uint16_t* tile, uint32_t row, uint32_t dim, uint16_t half) {
  tile[swizzled(row, dim / 8) * 8 + dim % 8] = half;
}

/// q, as high and low halves; heads past the group's are zero.
__device__ __forceinline__ void store_query(const HeadVec& v, uint32_t head, Shared& shared) {
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    if (kPairs % kWarpLanes != 0 && p >= kPairs) continue;
    const float x[2] = {v.a[i] * (kScale * 1.4426950408889634f), v.b[i] * (kScale * 1.4426950408889634f)};   // softmax in base 2
    const uint32_t dim[2] = {first_dim(p), second_dim(p)};
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const uint16_t hi = float_to_half(x[j]);
      store_half(&shared.q[0][0], head, dim[j], hi);
      store_half(&shared.q[0][0], 8 + head, dim[j], float_to_half(x[j] - half_to_float(hi)));
    }
  }
}

/// The new token's k or v: into the page's tile, and into the cache.
__device__ __forceinline__ void append(const HeadVec& v, uint16_t* tile, uint32_t row, uint16_t* cache_row) {
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    if (kPairs % kWarpLanes != 0 && p >= kPairs) continue;
    const uint16_t a = float_to_half(v.a[i]), b = float_to_half(v.b[i]);
    store_half(tile, row, first_dim(p), a), store_half(tile, row, second_dim(p), b);
    cache_row[first_dim(p)] = a, cache_row[second_dim(p)] = b;
  }
}

/// Asks for the rows of a page that lie before the new token; the others become zeros.
__device__ __forceinline__ void request_page(const DecodeAttentionArgs& args, size_t physical, uint32_t kv, uint32_t n_rows,
                                             uint16_t* k_tile, uint16_t* v_tile) {
  const size_t base = (physical * kHeadsKv + kv) * kPageTokens * kHeadDim;
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < kPageTokens * kUnits; i += kThreads) {
    const uint32_t row = i / kUnits, at = 8 * swizzled(row, i % kUnits), n_bytes = row < n_rows ? 16 : 0;
    cp_async_16_zfill(k_tile + at, args.k_pages + base + 8 * i, n_bytes);
    cp_async_16_zfill(v_tile + at, args.v_pages + base + 8 * i, n_bytes);
  }
}

/// What a warp has seen so far of its tokens, for head lane / 4: o of its dims 8 j + 2 (lane % 4) .. + 1.
struct Running {
  float o[kPartDims / 8][4];   // [0..1] from the high halves of the weights, [2..3] from the low ones
  float m, l;
};

/// 16 tokens: rows [row0, row0 + 16) of the tile; token index of row 0 is first_token.
__device__ __forceinline__ void attend(Running& run, const Shared& shared, const uint16_t* k_tile, const uint16_t* v_tile,
                                       uint32_t first_token, uint32_t first_visible, uint32_t position) {
  const uint32_t lane = lane_idx(), row0 = warp_idx() % kTokenWarps * 16, first_unit = warp_idx() / kTokenWarps * (kPartDims / 8);
  float s[2][4] = {};
#pragma unroll
  for (uint32_t k = 0; k < kStep; ++k) {
    uint32_t a[4], b[4];
    ldmatrix_x4(a, &shared.q[0][0] + 8 * swizzled(lane % 16, 2 * k + lane / 16));
    ldmatrix_x4(b, k_tile + 8 * swizzled(row0 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
    mma_m16n8k16_f16(s[0], a, b0);
    mma_m16n8k16_f16(s[1], a, b1);
  }
  float p[2][2], largest = run.m;
#pragma unroll
  for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      const uint32_t token = first_token + row0 + 8 * j + 2 * (lane % 4) + e;
      const bool visible = token <= position && token >= first_visible;
      p[j][e] = visible ? s[j][e] + s[j][2 + e] : -kInfinity;
      largest = fmaxf(largest, p[j][e]);
    }
  }
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  const float base = largest == -kInfinity ? 0.0f : largest;   // nothing visible yet
  const float shrink = exp2_approx(run.m - base);
  run.m = largest;
  run.l *= shrink;
  uint32_t a[4];
#pragma unroll
  for (uint32_t j = 0; j < 2; ++j) {
    const float x = exp2_approx(p[j][0] - base), y = exp2_approx(p[j][1] - base);
    run.l += x + y;
    a[2 * j] = float_to_half2(x, y);
    a[2 * j + 1] = float_to_half2(x - low_half(a[2 * j]), y - high_half(a[2 * j]));
  }
#pragma unroll
  for (uint32_t d = 0; d < kPartDims / 8; d += 2) {
    uint32_t b[4];
    ldmatrix_x4_trans(b, v_tile + 8 * swizzled(row0 + lane % 16, first_unit + d + lane / 16));
    const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
    for (uint32_t e = 0; e < 4; ++e) run.o[d][e] *= shrink, run.o[d + 1][e] *= shrink;
    mma_m16n8k16_f16(run.o[d], a, b0);
    mma_m16n8k16_f16(run.o[d + 1], a, b1);
  }
}

/// Stores into the shared memory of the cluster's block `owner`.
__device__ __forceinline__ void send(float* to, float v, uint32_t owner) {
  if constexpr (kCluster > 1) store_cluster_f32(to, v, owner); else *to = v;
}

/// Joins the warps and sends each head's share to the block of the cluster that joins it.
/// `scratch`: kTokenWarps * 8 * kHeadDim floats.
__device__ __forceinline__ void join_warps(Running& run, Shared& shared, float* scratch, uint32_t rank) {
  const uint32_t lane = lane_idx(), warp = warp_idx() % kTokenWarps, head = lane / 4, first_dim = warp_idx() / kTokenWarps * kPartDims;
  run.l += __shfl_xor_sync(kAllLanes, run.l, 1);
  run.l += __shfl_xor_sync(kAllLanes, run.l, 2);
#pragma unroll
  for (uint32_t d = 0; d < kPartDims / 8; ++d)
    reinterpret_cast<float2*>(scratch + (warp * 8 + head) * kHeadDim + first_dim + 8 * d)[lane % 4] =
        make_float2(run.o[d][0] + run.o[d][2], run.o[d][1] + run.o[d][3]);
  if (lane % 4 == 0 && first_dim == 0) shared.warp_m[warp][head] = run.m, shared.warp_l[warp][head] = run.l;
  __syncthreads();  // every warp's share is in shared memory
#pragma unroll
  for (uint32_t i = threadIdx.x; i < kGroupHeads * kHeadDim; i += kThreads) {
    const uint32_t h = i / kHeadDim, d = i % kHeadDim, owner = h / kOwnHeads, slot = h % kOwnHeads;
    float m = shared.warp_m[0][h];
#pragma unroll
    for (uint32_t w = 1; w < kTokenWarps; ++w) m = fmaxf(m, shared.warp_m[w][h]);
    const float base = m == -kInfinity ? 0.0f : m;
    float o = 0.0f, l = 0.0f;
#pragma unroll
    for (uint32_t w = 0; w < kTokenWarps; ++w) {
      const float weight = exp2_approx(shared.warp_m[w][h] - base);
      o += weight * scratch[(w * 8 + h) * kHeadDim + d];
      l += weight * shared.warp_l[w][h];
    }
    send(&shared.shares.o[rank][slot][d], o, owner);
    if (d == 0) send(&shared.shares.m[rank][slot], m, owner), send(&shared.shares.l[rank][slot], l, owner);
  }
}

struct HeadShare {
  float o, m, l;
};
/// Joins kN shares of one head, given by share(i), for this thread's dim. All are asked for before the first is used.
template <uint32_t kN, class Share>
__device__ __forceinline__ HeadShare join(Share&& share) {
  HeadShare part[kN];
#pragma unroll
  for (uint32_t i = 0; i < kN; ++i) part[i] = share(i);
  float m = part[0].m;
#pragma unroll
  for (uint32_t i = 1; i < kN; ++i) m = fmaxf(m, part[i].m);
  const float base = m == -kInfinity ? 0.0f : m;
  HeadShare sum = {0.0f, m, 0.0f};
#pragma unroll
  for (uint32_t i = 0; i < kN; ++i) {
    const float weight = exp2_approx(part[i].m - base);
    sum.o += part[i].o * weight, sum.l += part[i].l * weight;
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(kThreads) __cluster_dims__(kCluster, 1, 1)
    sj_decode_attention(const DecodeAttentionArgs args) {
  extern __shared__ __align__(128) uint16_t tiles[];   // [kStages][K, V]
  __shared__ __align__(16) Shared shared;
  pdl_trigger();
  if constexpr (kCluster > 1) cluster_arrive();
  const uint32_t kv = blockIdx.y / kHeadGroups, first_head = kv * kHeadsPerKv + blockIdx.y % kHeadGroups * kGroupHeads;
  const uint32_t position = static_cast<uint32_t>(args.state->position);
  const uint32_t first_visible = kWindowTokens != 0 && position >= kWindowTokens ? position - kWindowTokens + 1 : 0;
  const uint32_t seen_page = first_visible / kPageTokens, end_page = position / kPageTokens + 1;
  const uint32_t split_pages = ceil_div(end_page - seen_page, kSplits), first_page = seen_page + blockIdx.x * split_pages;
  const uint32_t n_pages = first_page < end_page ? min_u32(end_page - first_page, split_pages) : 0;
  const auto request = [&](uint32_t i) {
    const uint32_t page = first_page + i, n_rows = min_u32(position - min_u32(position, page * kPageTokens), kPageTokens);
    uint16_t* tile = tiles + i % kStages * kTileBytes;
    request_page(args, static_cast<size_t>(args.page_table[page]), kv, n_rows, tile, tile + kTileBytes / 2);
  };
#pragma unroll 1
  for (uint32_t i = 0; i < kStages; ++i) {
    if (i < n_pages) request(i);
    cp_async_commit();
  }
  Rotation rotation[kPairsEach];
#pragma unroll
  for (uint32_t i = 0; i < kPairsEach; ++i) {
    const uint32_t p = i * kWarpLanes + lane_idx();
    rotation[i] = {1.0f, 0.0f};
    if (p < kRot / 2) rotation[i] = rotation_of(static_cast<uint64_t>(position) * args.turns[p]);
    rotation[i].cosine *= p < kRot / 2 ? kMagnitude : 1.0f, rotation[i].sine *= kMagnitude;
  }
  // The split that holds the new token appends it, for the first head group of its KV head.
  const bool owns_new = n_pages != 0 && first_page + n_pages == end_page;
  const uint32_t new_row = position % kPageTokens, new_page = end_page - 1 - first_page;
  const size_t cache_row = ((static_cast<size_t>(args.page_table[end_page - 1]) * kHeadsKv + kv) * kPageTokens + new_row) * kHeadDim;
  for (uint32_t i = threadIdx.x; kGroupHeads < 8 && i < 16 * kHeadDim / 2; i += kThreads)
    reinterpret_cast<uint32_t*>(shared.q)[i] = 0;
  if (kGroupHeads < 8) __syncthreads();  // absent heads are zero before the others are written
  const HeadVec q_norm = load_norm(args.q_norm), k_norm = load_norm(args.k_norm);
  pdl_wait();
  // Everything is asked for before the first value is used.
  const bool has_k = owns_new && warp_idx() == kWarps - 1, has_v = owns_new && warp_idx() == kWarps - 2;
  constexpr uint32_t kWarpHeads = ceil_div(kGroupHeads, kWarps);
  HeadVec fresh, q[kWarpHeads];
  if (n_pages != 0) {
#pragma unroll
    for (uint32_t i = 0; i < kWarpHeads; ++i)
      q[i] = load_head(args.qkv + (first_head + min_u32(i * kWarps + warp_idx(), kGroupHeads - 1)) * kHeadDim);
    if (has_k) fresh = load_head(args.qkv + (kHeads + kv) * kHeadDim);
    if (has_v) fresh = load_head(args.qkv + (kHeads + kHeadsKv + kv) * kHeadDim);
#pragma unroll
    for (uint32_t i = 0; i < kWarpHeads; ++i) {
      const uint32_t h = i * kWarps + warp_idx();
      if (h >= kGroupHeads) continue;
      norm_and_rotate(q[i], q_norm, rotation);
      store_query(q[i], h, shared);
    }
    if (has_k) norm_and_rotate(fresh, k_norm, rotation);
  }

  Running run;
  run.m = -kInfinity, run.l = 0.0f;
#pragma unroll
  for (uint32_t d = 0; d < kPartDims / 8; ++d) run.o[d][0] = run.o[d][1] = run.o[d][2] = run.o[d][3] = 0.0f;
#pragma unroll 1
  for (uint32_t i = 0; i < n_pages; ++i) {
    cp_async_wait<kStages - 1>();
    __syncthreads();  // the page has arrived for every thread; at i = 0: q is complete
    uint16_t* k_tile = tiles + i % kStages * kTileBytes;
    uint16_t* v_tile = k_tile + kTileBytes / 2;
    if (owns_new && i == new_page) {
      if (has_k) append(fresh, k_tile, new_row, args.k_pages + cache_row);
      if (has_v) append(fresh, v_tile, new_row, args.v_pages + cache_row);
      __syncthreads();  // the new token is in the tile
    }
    attend(run, shared, k_tile, v_tile, (first_page + i) * kPageTokens, first_visible, position);
    __syncthreads();  // the page has been read by every warp
    if (i + kStages < n_pages) request(i + kStages);
    cp_async_commit();
  }
  const uint32_t rank = kCluster > 1 ? cluster_rank() : 0, group = blockIdx.x / kCluster;
  if constexpr (kCluster > 1) cluster_wait();  // every block of the cluster has started: its shared memory may be written
  join_warps(run, shared, reinterpret_cast<float*>(tiles), rank);
  if constexpr (kCluster > 1) {
    cluster_arrive();
    cluster_wait();  // every block's shares are where they are joined
  } else {
    __syncthreads();  // the shares are complete
  }
  constexpr uint32_t kRounds = ceil_div(kOwnHeads * kHeadDim, kThreads);
  const auto finish = [&](const HeadShare& share, uint32_t h, uint32_t d) {   // a warp's lanes have one head
    if (h < kGroupHeads)
      store_group<kHeads * kHeadDim>(share.o / share.l, (first_head + h) * kHeadDim + d,
                                     static_cast<QuantVec<kHeads * kHeadDim>*>(args.out), true);
  };
  float* partials = args.partial + (static_cast<size_t>(blockIdx.y) * kGroups) * 8 * (kHeadDim + 2);
#pragma unroll 1
  for (uint32_t r = 0; r < kRounds; ++r) {
    const uint32_t i = r * kThreads + threadIdx.x, h = rank * kOwnHeads + i / kHeadDim, d = i % kHeadDim;
    if (i >= kOwnHeads * kHeadDim || h >= kGroupHeads) continue;
    const uint32_t slot = i / kHeadDim;
    const HeadShare share = join<kCluster>([&](uint32_t other) {
      return HeadShare{shared.shares.o[other][slot][d], shared.shares.m[other][slot], shared.shares.l[other][slot]};
    });
    if constexpr (kGroups == 1) {
      finish(share, h, d);
    } else {
      float* to = partials + (group * 8 + h) * (kHeadDim + 2);
      to[d] = share.o;
      if (d == 0) to[kHeadDim] = share.m, to[kHeadDim + 1] = share.l;
    }
  }
  if constexpr (kGroups > 1) {
    // The last of the groups to arrive at these heads joins them.
    __syncthreads();  // this block's shares are written
    if (threadIdx.x == 0) {
      uint32_t* n_arrived = args.n_arrived + blockIdx.y * kCluster + rank;
      shared.is_last = atom_add_acq_rel_gpu_u32(n_arrived, 1) == kGroups - 1;
      if (shared.is_last) *n_arrived = 0;
    }
    __syncthreads();  // is_last is known
    if (shared.is_last) {
#pragma unroll 1
      for (uint32_t r = 0; r < kRounds; ++r) {
        const uint32_t i = r * kThreads + threadIdx.x, h = rank * kOwnHeads + i / kHeadDim, d = i % kHeadDim;
        if (i >= kOwnHeads * kHeadDim || h >= kGroupHeads) continue;
        finish(join<kGroups>([&](uint32_t g) {
                 const float* from = partials + (g * 8 + h) * (kHeadDim + 2);
                 return HeadShare{load_float(from + d), load_float(from + kHeadDim), load_float(from + kHeadDim + 1)};
               }), h, d);
      }
    }
  }
}

}  // namespace sj
