// One decode stage between the q, k, v projections and the output projection: per-head RMSNorm of q and k, rotary embedding,
// append to the KV cache, attention, quantised output.
//   o_h = sum_t softmax_t(kScale * q_h . k_t) v_t over the cached tokens and the new one
// Grid: (splits, head groups); a head group is up to 8 query heads of one KV head. Slices of 16 tokens are dealt out in turn
// to the splits and their warps. Each warp streams its slices through slots of its own, by bulk copies, so that no barrier of
// the block is needed on the way; the first are asked for before the dependency wait: only this kernel writes the cache, in
// the step before. Where kDimParts > 1, that many warps share a slice, each with a part of the dims of v.
// q and the softmax weights are split in two halves each (x = hi + lo, both f16), which fill the 16 rows of the tensor
// core's tile: products are as exact as in f32.    Splits meet first in their cluster, then through global memory.
// A q8_0 cache (kIsKvQ8) is streamed as it is and becomes halves in the registers, as fragments of the tile.
// spec: decode_stages_spec.cpp
#include "sj_baked.h"

#include "device/decode.cuh"
#include "device/head_vec.cuh"
#include "device/kv_layout.cuh"
#include "device/kv_q8_slice.cuh"

#include "args/decode_attention.h"
#include "args/step_state.h"

namespace sj {
using namespace baked;

constexpr uint32_t kSliceTokens = 16, kThreads = kWarps * kWarpLanes;
constexpr uint32_t kStreams = kWarps / kDimParts, kSplits = kCluster * kGroups, kTakers = kStreams * kSplits;
constexpr uint32_t kPartDims = kHeadDim / kDimParts;   // dims of v and o that a warp has
constexpr uint32_t kHeadsPerKv = kHeads / kHeadsKv, kHeadGroups = ceil_div(kHeadsPerKv, 8), kGroupHeads = min_u32(kHeadsPerKv, 8);
constexpr uint32_t kOwnHeads = ceil_div(kGroupHeads, kCluster);   // heads that a block of a cluster joins
constexpr uint32_t kSteps = kHeadDim / 16;
constexpr uint32_t kOutStride = kPartDims + 8;         // floats of a head's o in shared memory: 8 keeps the banks apart
constexpr uint32_t kLaneQuads = ceil_div(kHeadDim, 128);
static_assert(kPageTokens % kSliceTokens == 0 && kHeadDim % 32 == 0 && kHeadsPerKv % kGroupHeads == 0);
static_assert(kDimParts == 1 || kPartDims % 64 == 0, "units are exchanged within 64 dims");

struct HalfSlot {
  uint16_t k[kSliceTokens][kHeadDim], v[kSliceTokens][kPartDims];   // units exchanged as in the cache
};
using Q8Slice = KvQ8Slice<kHeadDim, kPartDims>;
union Q8Slot {
  Q8Slice slice;
  float o[8 * kOutStride];
};
template <bool kIsQ8> struct SlotOf { using Type = HalfSlot; };
template <> struct SlotOf<true> { using Type = Q8Slot; };
using Slot = SlotOf<kIsKvQ8>::Type;
static_assert(sizeof(Slot) >= 8 * kOutStride * 4, "a warp's o takes its slot's place");

/// Shares of the softmax that the blocks of the cluster send to the one that joins these heads: o is not normalised,
/// l = sum of exp2(s - m).
struct alignas(16) Shares {
  float o[kCluster][kOwnHeads][kCluster > 1 ? kHeadDim : 4];
  float m[kCluster][kOwnHeads], l[kCluster][kOwnHeads];
};

struct Shared {
  uint16_t q[16][kHeadDim];   // rows 0..7: high halves of the heads, 8..15: low halves; units exchanged as in the cache
  uint64_t arrived[kWarps][kSlots];
  float warp_m[kStreams][8], warp_l[kStreams][8];
  Shares shares;
};

/// A warp's slices: the i-th has index first + i * kTakers, counted from token 0.
struct Slices {
  uint32_t first, n, last;   ///< last: index of the slice that the new token is in, whichever warp has it
};

__device__ __forceinline__ uint32_t own_taker() { return warp_idx() / kDimParts * kSplits + blockIdx.x; }

__device__ __forceinline__ Slices own_slices(uint32_t position) {
  const uint32_t first_visible = kWindowTokens != 0 && position >= kWindowTokens ? position - kWindowTokens + 1 : 0;
  const uint32_t seen = first_visible / kSliceTokens, last = position / kSliceTokens;
  const uint32_t taker = own_taker(), n_seen = last + 1 - seen;
  return {seen + taker, taker < n_seen ? ceil_div(n_seen - taker, kTakers) : 0, last};
}

/// Pages of a warp's slices, 32 at a time: lane l has that of slice i with i % 32 == l. Entries behind the last slice's may be
/// asked for, so that the position need not be known first.
struct Pages {
  uint32_t page;
  __device__ __forceinline__ void load(const DecodeAttentionArgs& args, uint32_t first_slice, uint32_t i) {
    const uint32_t slice = first_slice + (i + lane_idx()) * kTakers;
    page = static_cast<uint32_t>(args.page_table[min_u32(slice * kSliceTokens / kPageTokens, args.n_table_pages - 1)]);
  }
};

/// Asks for the first n_rows rows of a slice; `row` counts the rows of all pages and KV heads.
__device__ __forceinline__ void request_rows(const DecodeAttentionArgs& args, size_t row, uint32_t n_rows, HalfSlot& slot,
                                             uint64_t* arrived) {
  if (lane_idx() == 0) {
    mbarrier_arrive_expect_tx(arrived, n_rows * (kHeadDim + kPartDims) * 2);
    if (n_rows != 0) bulk_copy_to_shared(slot.k, args.k_pages + row * kHeadDim, n_rows * kHeadDim * 2, arrived);
    if (n_rows != 0 && kDimParts == 1) bulk_copy_to_shared(slot.v, args.v_pages + row * kHeadDim, n_rows * kHeadDim * 2, arrived);
  }
  if constexpr (kDimParts > 1) {
    __syncwarp();  // the bytes are expected before the first arrives
    const uint32_t r = lane_idx(), part = warp_idx() % kDimParts * kPartDims;
    if (r < n_rows) bulk_copy_to_shared(slot.v[r], args.v_pages + (row + r) * kHeadDim + part, kPartDims * 2, arrived);
  }
}

/// The q8_0 page of a KV head that row `row` is in.
__device__ __forceinline__ uint8_t* q8_page(uint16_t* pages, size_t row) {
  return reinterpret_cast<uint8_t*>(pages) + row / kPageTokens * KvQ8Page<kHeadDim, kPageTokens>::kBytes;
}
__device__ __forceinline__ void request_rows(const DecodeAttentionArgs& args, size_t row, uint32_t n_rows, Q8Slot& slot,
                                             uint64_t* arrived) {
  constexpr bool kIsRowBehindWritten = kHeadGroups > 1;   // the first group's block appends while the others read
  slot.slice.request<kPageTokens, kIsRowBehindWritten>(q8_page(args.k_pages, row), q8_page(args.v_pages, row), row % kPageTokens,
                                                       n_rows, warp_idx() % kDimParts, arrived);
}

/// Asks for a warp's i-th slice: rows before the new token's.
__device__ __forceinline__ void request(const DecodeAttentionArgs& args, const Slices& slices, Pages& pages, uint32_t i, uint32_t kv,
                                        uint32_t position, Slot& slot, uint64_t* arrived) {
  if (i % kWarpLanes == 0 && i != 0) pages.load(args, slices.first, i);
  const size_t page = __shfl_sync(kAllLanes, pages.page, i % kWarpLanes);
  const uint32_t first_token = (slices.first + i * kTakers) * kSliceTokens, n_rows = min_u32(position - first_token, kSliceTokens);
  const size_t row = (page * kHeadsKv + kv) * kPageTokens + first_token % kPageTokens;
  request_rows(args, row, n_rows, slot, arrived);
}

/// q, as high and low halves.
__device__ __forceinline__ void store_query(const HeadVec& v, uint32_t head, Shared& shared) {
  for_each_pair([&](uint32_t i, uint32_t p) {
    const float x[2] = {v.a[i] * (kScale * 1.4426950408889634f), v.b[i] * (kScale * 1.4426950408889634f)};   // softmax in base 2
    const uint32_t dim[2] = {first_dim(p), second_dim(p)};
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const uint16_t hi = float_to_half(x[j]);
      const uint32_t at = kv_elem<kHeadDim>(head, kIsKvQ8 ? q8_query_place(dim[j]) : dim[j]);   // the same place in row 8 + head
      shared.q[head][at] = hi;
      shared.q[8 + head][at] = float_to_half(x[j] - half_to_float(hi));
    }
  });
}

/// The new token's k and v, into the slice's slot and by one warp into the cache, where `cache_row` is its row's first element;
/// rows behind become zeros. A q8_0 cache takes them from shared memory, [2][kHeadDim].
__device__ __forceinline__ void append(const DecodeAttentionArgs& args, const HeadVec& k, const HeadVec& v, const float*,
                                       size_t cache_row, uint32_t position, HalfSlot& slot) {
  const uint32_t row = position % kSliceTokens, part = warp_idx() % kDimParts * kPartDims;
  const auto put = [&](uint32_t dim, uint16_t k_half, uint16_t v_half) {
    const uint32_t at = kv_elem<kHeadDim>(row, dim);
    slot.k[row][at] = k_half;
    if (kDimParts == 1 || dim / kPartDims * kPartDims == part) slot.v[row][at - part] = v_half;
    if (part == 0 && blockIdx.y % kHeadGroups == 0) args.k_pages[cache_row + at] = k_half, args.v_pages[cache_row + at] = v_half;
  };
  for_each_pair([&](uint32_t i, uint32_t p) {
    put(first_dim(p), float_to_half(k.a[i]), float_to_half(v.a[i]));
    put(second_dim(p), float_to_half(k.b[i]), float_to_half(v.b[i]));
  });
  for (uint32_t r = row + 1; r < kSliceTokens; ++r) {
    for (uint32_t i = lane_idx(); i < kHeadDim / 2; i += kWarpLanes) reinterpret_cast<uint32_t*>(slot.k[r])[i] = 0;
    for (uint32_t i = lane_idx(); i < kPartDims / 2; i += kWarpLanes) reinterpret_cast<uint32_t*>(slot.v[r])[i] = 0;
  }
}
__device__ __forceinline__ void append(const DecodeAttentionArgs& args, const HeadVec&, const HeadVec&, const float* new_token,
                                       size_t cache_row, uint32_t position, Q8Slot& slot) {
  const uint32_t part = warp_idx() % kDimParts;
  slot.slice.append<kPageTokens>(new_token, position % kSliceTokens, part, q8_page(args.k_pages, cache_row / kHeadDim),
                                 q8_page(args.v_pages, cache_row / kHeadDim), position % kPageTokens,
                                 part == 0 && blockIdx.y % kHeadGroups == 0);
}

/// What a warp has seen so far of its tokens, for head lane / 4: o of its dims 8 j + 2 (lane % 4) .. + 1. Over a q8_0 cache:
/// o[4 j + i] of dims 32 j + 8 (lane % 4) + i and + 4 + i.
struct Running {
  float o[kPartDims / 8][4];   // [0..1] from the high halves of the weights, [2..3] from the low ones
  float m, l;
};

/// Adds the products of q and the keys of a q8_0 slice to s[sum][j], j: tokens 8 j .. 8 j + 7.
__device__ __forceinline__ void add_q8_scores(float (&s)[2][2][4], const Shared& shared, const Q8Slice& slice) {
  const uint32_t lane = lane_idx();
#pragma unroll
  for (uint32_t block = 0; block < kHeadDim / 32; ++block) {
    uint32_t a[2][4], b[2][2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i)
      ldmatrix_x4(a[i], shared.q[lane % 16] + 8 * kv_unit<kHeadDim>(lane % 16, 4 * block + 2 * i + lane / 16));
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      slice.key_fragments(8 * j, block, b);
      mma_m16n8k16_f16(s[0][j], a[0], b[0]);
      mma_m16n8k16_f16(s[1][j], a[1], b[1]);
    }
  }
}

/// o = shrink o + a V of a q8_0 slice, a: the weights of its tokens.
__device__ __forceinline__ void add_q8_values(Running& run, float shrink, const uint32_t (&a)[4], const Q8Slice& slice) {
#pragma unroll
  for (uint32_t block = 0; block < kPartDims / 32; ++block) {
    uint32_t b[4][2];
    slice.value_fragments(warp_idx() % kDimParts, block, b);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) run.o[4 * block + i][e] *= shrink;
      mma_m16n8k16_f16(run.o[4 * block + i], a, b[i]);
    }
  }
}

/// AnySlot: a template parameter, so that the other slot's branches need not compile.
template <class AnySlot>
__device__ __forceinline__ void attend(Running& run, const Shared& shared, const AnySlot& slot, uint32_t first_token,
                                       uint32_t first_visible, uint32_t position) {
  const uint32_t lane = lane_idx();
  // Each row of keys has two sums, so that half as many products wait for each other.
  float s[2][2][4] = {};
  if constexpr (kIsKvQ8) {
    add_q8_scores(s, shared, slot.slice);
  } else {
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) {
      uint32_t a[4], b[4];
      ldmatrix_x4(a, shared.q[lane % 16] + 8 * kv_unit<kHeadDim>(lane % 16, 2 * step + lane / 16));
      const uint32_t row = lane % 8 + lane / 16 * 8;
      ldmatrix_x4(b, slot.k[row] + 8 * kv_unit<kHeadDim>(row, 2 * step + lane / 8 % 2));
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
      mma_m16n8k16_f16(s[step % 2][0], a, b0);
      mma_m16n8k16_f16(s[step % 2][1], a, b1);
    }
  }
  float p[2][2], largest = run.m;
#pragma unroll
  for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      const uint32_t token = first_token + 8 * j + 2 * (lane % 4) + e;
      const bool visible = token <= position && token >= first_visible;
      p[j][e] = visible ? (s[0][j][e] + s[1][j][e]) + (s[0][j][2 + e] + s[1][j][2 + e]) : -kInfinity;
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
  if constexpr (kIsKvQ8) {
    add_q8_values(run, shrink, a, slot.slice);
  } else {
    const uint32_t first_unit = warp_idx() % kDimParts * (kPartDims / 8);
#pragma unroll
    for (uint32_t d = 0; d < kPartDims / 8; d += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, slot.v[lane % 16] + 8 * (kv_unit<kHeadDim>(lane % 16, first_unit + d + lane / 16) - first_unit));
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) run.o[d][e] *= shrink, run.o[d + 1][e] *= shrink;
      mma_m16n8k16_f16(run.o[d], a, b0);
      mma_m16n8k16_f16(run.o[d + 1], a, b1);
    }
  }
}

/// A head's share of the softmax in a warp: lane l has o of dims 4 l .. 4 l + 3, then of 128 more, ...
struct HeadShare {
  float4 o[kLaneQuads];
  float m, l;
};

/// Joins kN shares of one head, given by m(i), l(i) and o(i, first dim). All are asked for before the first is used.
template <uint32_t kN, class M, class L, class O>
__device__ __forceinline__ HeadShare join(M&& m_of, L&& l_of, O&& o_of) {
  float m[kN], l[kN];
  float4 o[kN][kLaneQuads];
#pragma unroll
  for (uint32_t i = 0; i < kN; ++i) {
    m[i] = m_of(i), l[i] = l_of(i);
#pragma unroll
    for (uint32_t j = 0; j < kLaneQuads; ++j)
      o[i][j] = o_of(i, min_u32(j * 128 + 4 * lane_idx(), kHeadDim - 4));
  }
  HeadShare sum = {{}, m[0], 0.0f};
#pragma unroll
  for (uint32_t i = 1; i < kN; ++i) sum.m = fmaxf(sum.m, m[i]);
  const float base = sum.m == -kInfinity ? 0.0f : sum.m;
#pragma unroll
  for (uint32_t i = 0; i < kN; ++i) {
    const float weight = exp2_approx(m[i] - base);
    sum.l += l[i] * weight;
#pragma unroll
    for (uint32_t j = 0; j < kLaneQuads; ++j) {
      sum.o[j].x += o[i][j].x * weight, sum.o[j].y += o[i][j].y * weight;
      sum.o[j].z += o[i][j].z * weight, sum.o[j].w += o[i][j].w * weight;
    }
  }
  return sum;
}

/// Calls visit(j, first dim) for each of this lane's quads of a head.
template <class Visit>
__device__ __forceinline__ void for_each_quad(Visit&& visit) {
#pragma unroll
  for (uint32_t j = 0; j < kLaneQuads; ++j)
    if (kHeadDim % 128 == 0 || j * 128 + 4 * lane_idx() < kHeadDim) visit(j, j * 128 + 4 * lane_idx());
}

/// Leaves the warp's o, not normalised, in its slot, and m and l.
__device__ __forceinline__ void leave_share(Running& run, Shared& shared, float* o) {
  const uint32_t lane = lane_idx(), head = lane / 4, stream = warp_idx() / kDimParts;
  run.l += __shfl_xor_sync(kAllLanes, run.l, 1);
  run.l += __shfl_xor_sync(kAllLanes, run.l, 2);
#pragma unroll
  for (uint32_t d = 0; d < kPartDims / 8; ++d) {
    const float2 sum = make_float2(run.o[d][0] + run.o[d][2], run.o[d][1] + run.o[d][3]);
    if constexpr (kIsKvQ8) {
      float* const at = o + head * kOutStride + d / 4 * 32 + lane % 4 * 8 + d % 4;
      at[0] = sum.x, at[4] = sum.y;
    } else {
      reinterpret_cast<float2*>(o + head * kOutStride + 8 * d)[lane % 4] = sum;
    }
  }
  if (lane % 4 == 0 && warp_idx() % kDimParts == 0) shared.warp_m[stream][head] = run.m, shared.warp_l[stream][head] = run.l;
}

__device__ __forceinline__ HeadShare join_warps(const Shared& shared, const Slot* slots, uint32_t head) {
  return join<kStreams>([&](uint32_t s) { return shared.warp_m[s][head]; }, [&](uint32_t s) { return shared.warp_l[s][head]; },
                        [&](uint32_t s, uint32_t dim) {
                          const Slot& slot = slots[(s * kDimParts + dim / kPartDims) * kSlots];
                          return *reinterpret_cast<const float4*>(reinterpret_cast<const float*>(&slot) + head * kOutStride + dim % kPartDims);
                        });
}

__device__ __forceinline__ void finish(const HeadShare& share, uint32_t head, void* out) {
  const float inverse = rcp_approx(share.l);
#pragma unroll
  for (uint32_t j = 0; j < kLaneQuads; ++j) {
    const uint32_t dim = j * 128 + 4 * lane_idx();
    const float4 o = share.o[j];
    store_quads<kHeads * kHeadDim>(make_float4(o.x * inverse, o.y * inverse, o.z * inverse, o.w * inverse),
                                   head * kHeadDim + dim, static_cast<QuantVec<kHeads * kHeadDim>*>(out), dim < kHeadDim);
  }
}

/// The last of the groups to arrive at a head joins them. One warp calls it.
__device__ __forceinline__ void join_groups(const DecodeAttentionArgs& args, const HeadShare& share, uint32_t group, uint32_t h,
                                            uint32_t first_head) {
  constexpr uint32_t kStride = kHeadDim + 4;
  float* partials = args.partial + (static_cast<size_t>(blockIdx.y) * 8 + h) * kGroups * kStride;
  for_each_quad([&](uint32_t j, uint32_t dim) { *reinterpret_cast<float4*>(partials + group * kStride + dim) = share.o[j]; });
  if (lane_idx() == 0) *reinterpret_cast<float2*>(partials + group * kStride + kHeadDim) = make_float2(share.m, share.l);
  __syncwarp();  // the share is written before it is counted
  uint32_t n_before = 0;
  if (lane_idx() == 0) n_before = atom_add_acq_rel_gpu_u32(args.n_arrived + blockIdx.y * 8 + h, 1);
  if (__shfl_sync(kAllLanes, n_before, 0) != kGroups - 1) return;
  if (lane_idx() == 0) args.n_arrived[blockIdx.y * 8 + h] = 0;
  const auto quad = [&](uint32_t g, uint32_t at) {
    const uint4 v = ld_cg_v4(partials + g * kStride + at);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
  };
  finish(join<kGroups>([&](uint32_t g) { return load_float(partials + g * kStride + kHeadDim); },
                       [&](uint32_t g) { return load_float(partials + g * kStride + kHeadDim + 1); }, quad),
         first_head + h, args.out);
}

/// A q8_0 cache: one block an SM is enough, said so that the compiler doesn't spill registers to fit a second one.
extern "C" __global__ void __launch_bounds__(kThreads, kIsKvQ8 ? 1 : 0) __cluster_dims__(kCluster, 1, 1)
    sj_decode_attention(const DecodeAttentionArgs args) {
  extern __shared__ __align__(128) Slot slots[];   // [kWarps][kSlots]
  __shared__ __align__(16) Shared shared;
  __shared__ __align__(16) float new_token[kIsKvQ8 ? 2 * kHeadDim : 4];   // used with q8_0 only
  if constexpr (kCluster > 1) cluster_arrive();
  const uint32_t kv = blockIdx.y / kHeadGroups, first_head = kv * kHeadsPerKv + blockIdx.y % kHeadGroups * kGroupHeads;
  Pages pages;
  if constexpr (kWindowTokens == 0) pages.load(args, own_taker(), 0);
  const uint32_t position = static_cast<uint32_t>(args.state->position);
  const uint32_t first_visible = kWindowTokens != 0 && position >= kWindowTokens ? position - kWindowTokens + 1 : 0;
  const Slices slices = own_slices(position);
  Slot* const own = slots + warp_idx() * kSlots;
  uint64_t* const arrived = shared.arrived[warp_idx()];
  if constexpr (kWindowTokens != 0) pages.load(args, slices.first, 0);
  if (lane_idx() == 0) {
    for (uint32_t i = 0; i < kSlots; ++i) mbarrier_init(&arrived[i], 1);
    fence_mbarrier_init();
  }
  // What is small is asked for before the slices: behind them it would wait for microseconds.
  const size_t new_page = static_cast<size_t>(args.page_table[position / kPageTokens]);
  Rotation rotation[kPairsEach];
  load_rotations(rotation, args.turns, position);
  HeadVec q_norm = load_norm(args.q_norm), k_norm = load_norm(args.k_norm);
  compute_here(q_norm), compute_here(k_norm);
  __syncwarp();  // the barriers are initialised
  // Where all blocks together ask for much, most warps do so behind q, which would wait for all that is on its way before it.
  const bool asks_early = warp_idx() < kEarlyWarps;
  const auto request_first = [&] {
#pragma unroll 1
    for (uint32_t i = 0; i < min_u32(kSlots, slices.n); ++i) request(args, slices, pages, i, kv, position, own[i], &arrived[i]);
  };
  if (asks_early) request_first();
  // The warp that has the new token's slice appends it.
  const bool owns_new = slices.n != 0 && slices.first + (slices.n - 1) * kTakers == slices.last;
  const size_t cache_row = ((new_page * kHeadsKv + kv) * kPageTokens + position % kPageTokens) * kHeadDim;
  for (uint32_t i = threadIdx.x; kGroupHeads < 8 && i < 16 * kHeadDim / 2; i += kThreads)
    reinterpret_cast<uint32_t*>(shared.q)[i] = 0;
  if (kGroupHeads < 8) __syncthreads();  // absent heads are zero before the others are written
  pdl_trigger();
  pdl_wait();
  // Everything is asked for before the first value is used.
  constexpr uint32_t kWarpHeads = ceil_div(kGroupHeads, kWarps);
  HeadVec new_k, new_v, q[kWarpHeads];
#pragma unroll
  for (uint32_t i = 0; i < kWarpHeads; ++i)
    q[i] = load_head(args.qkv + (first_head + min_u32(i * kWarps + warp_idx(), kGroupHeads - 1)) * kHeadDim);
  if (owns_new) {
    new_k = load_head(args.qkv + (kHeads + kv) * kHeadDim);
    new_v = load_head(args.qkv + (kHeads + kHeadsKv + kv) * kHeadDim);
  }
  if (!asks_early) request_first();
#pragma unroll
  for (uint32_t i = 0; i < kWarpHeads; ++i) {
    const uint32_t h = i * kWarps + warp_idx();
    if (h >= kGroupHeads) continue;
    norm_and_rotate(q[i], q_norm, rotation);
    store_query(q[i], h, shared);
  }
  if (owns_new) norm_and_rotate(new_k, k_norm, rotation);
  if constexpr (kIsKvQ8) {
    if (owns_new && warp_idx() % kDimParts == 0) {
      for_each_pair([&](uint32_t i, uint32_t p) {
        new_token[first_dim(p)] = new_k.a[i], new_token[second_dim(p)] = new_k.b[i];
        new_token[kHeadDim + first_dim(p)] = new_v.a[i], new_token[kHeadDim + second_dim(p)] = new_v.b[i];
      });
    }
  }
  __syncthreads();  // q is complete, and the new token in shared memory

  Running run = {{}, -kInfinity, 0.0f};
#pragma unroll 1
  for (uint32_t i = 0; i < slices.n; ++i) {
    Slot& slot = own[i % kSlots];
    mbarrier_wait(&arrived[i % kSlots], i / kSlots % 2);
    const uint32_t slice = slices.first + i * kTakers;
    if (slice == slices.last) {
      append(args, new_k, new_v, new_token, cache_row, position, slot);
      __syncwarp();  // the new token is in the slot
    }
    attend(run, shared, slot, slice * kSliceTokens, first_visible, position);
    __syncwarp();  // every lane has read the slot
    if (i + kSlots < slices.n) request(args, slices, pages, i + kSlots, kv, position, slot, &arrived[i % kSlots]);
  }
  leave_share(run, shared, reinterpret_cast<float*>(own));
  const uint32_t rank = kCluster > 1 ? cluster_rank() : 0;
  if constexpr (kCluster > 1) cluster_wait();  // every block of the cluster has started: its shared memory may be written
  __syncthreads();  // every warp's share is in its slot
  const auto deliver = [&](const HeadShare& share, uint32_t h, uint32_t group) {
    if constexpr (kGroups == 1) finish(share, first_head + h, args.out);
    else join_groups(args, share, group, h, first_head);
  };
  if constexpr (kCluster == 1) {
#pragma unroll 1
    for (uint32_t h = warp_idx(); h < kGroupHeads; h += kWarps) deliver(join_warps(shared, slots, h), h, blockIdx.x);
  } else {
#pragma unroll 1
    for (uint32_t h = warp_idx(); h < kGroupHeads; h += kWarps) {
      const HeadShare share = join_warps(shared, slots, h);
      const uint32_t owner = h / kOwnHeads, slot = h % kOwnHeads;
      for_each_quad([&](uint32_t j, uint32_t dim) { store_cluster_f32x4(&shared.shares.o[rank][slot][dim], share.o[j], owner); });
      if (lane_idx() == 0) {
        store_cluster_f32(&shared.shares.m[rank][slot], share.m, owner);
        store_cluster_f32(&shared.shares.l[rank][slot], share.l, owner);
      }
    }
    cluster_arrive();
    cluster_wait();  // every block's shares are where they are joined
#pragma unroll 1
    for (uint32_t slot = warp_idx(); slot < kOwnHeads; slot += kWarps) {
      const uint32_t h = rank * kOwnHeads + slot;
      if (h >= kGroupHeads) continue;
      deliver(join<kCluster>([&](uint32_t other) { return shared.shares.m[other][slot]; },
                             [&](uint32_t other) { return shared.shares.l[other][slot]; },
                             [&](uint32_t other, uint32_t dim) {
                               return *reinterpret_cast<const float4*>(&shared.shares.o[other][slot][dim]);
                             }), h, blockIdx.x / kCluster);
    }
  }
}

}  // namespace sj
