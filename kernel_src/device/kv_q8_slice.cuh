// A slice of 16 tokens of a q8_0 KV cache in a warp's shared memory: its copy, the new token's row, and the fragments that the
// tensor core multiplies (mma.m16n8k16, keys and values as B). Which dim stands for which k of the tile is free, as long as q
// agrees: the lanes take the bytes as they lie.
#pragma once

#include "device/decode.cuh"
#include "device/kv_q8.cuh"

namespace sj {

/// Place of dim `dim` of q where a tile's k index is: of 8 dims in a row, which one lane converts, the first four go with the
/// first tile of 16, the others with the second.
__device__ __forceinline__ uint32_t q8_query_place(uint32_t dim) {
  const uint32_t in_block = dim % 32;
  return dim - in_block + 16 * (in_block / 4 % 2) + 8 * (in_block / 2 % 2) + 2 * (in_block / 8) + in_block % 2;
}

/// kPartDims: the dims of v that the warp has; part: which of them.
template <uint32_t kHeadDim, uint32_t kPartDims>
struct KvQ8Slice {
  static constexpr uint32_t kTokens = 16, kBlocks = kHeadDim / 32, kPartBlocks = kPartDims / 32;
  uint8_t k[kTokens][kHeadDim], v[kTokens][kPartDims];
  uint16_t k_scales[kTokens][kBlocks], v_scales[kTokens][kBlocks];

  /// Asks for the first n_rows rows from row `row` of a page on, a multiple of 16. All lanes of the warp call it. Bulk copies are
  /// of 16 bytes, so scales of rows behind may come along; kIsRowBehindWritten: not those, another block writes them meanwhile.
  template <uint32_t kPageTokens, bool kIsRowBehindWritten>
  __device__ __forceinline__ void request(const uint8_t* k_page, const uint8_t* v_page, uint32_t row, uint32_t n_rows, uint32_t part,
                                          uint64_t* arrived) {
    using Page = KvQ8Page<kHeadDim, kPageTokens>;
    const uint32_t n_scales = n_rows * kBlocks, scales_at = Page::kScales + row * Page::kScaleRowBytes;
    const uint32_t scale_bytes = kIsRowBehindWritten ? n_scales / 8 * 16 : round_up(2 * n_scales, 16);
    if (lane_idx() == 0) {
      mbarrier_arrive_expect_tx(arrived, n_rows * (kHeadDim + kPartDims) + 2 * scale_bytes);
      if (n_rows != 0) {
        bulk_copy_to_shared(k, k_page + row * kHeadDim, n_rows * kHeadDim, arrived);
        if (!kIsRowBehindWritten || scale_bytes != 0) {
          bulk_copy_to_shared(k_scales, k_page + scales_at, scale_bytes, arrived);
          bulk_copy_to_shared(v_scales, v_page + scales_at, scale_bytes, arrived);
        }
        if (kPartDims == kHeadDim) bulk_copy_to_shared(v, v_page + row * kHeadDim, n_rows * kHeadDim, arrived);
      }
    }
    if constexpr (kIsRowBehindWritten) {
      const uint32_t i = scale_bytes / 2 + lane_idx();   // up to 7 are left
      if (i < n_scales) {
        (&k_scales[0][0])[i] = reinterpret_cast<const uint16_t*>(k_page + scales_at)[i];
        (&v_scales[0][0])[i] = reinterpret_cast<const uint16_t*>(v_page + scales_at)[i];
      }
    }
    if constexpr (kPartDims != kHeadDim) {
      __syncwarp();  // the bytes are expected before the first arrives
      const uint32_t r = lane_idx();
      if (r < n_rows) bulk_copy_to_shared(v[r], v_page + (row + r) * kHeadDim + part * kPartDims, kPartDims, arrived);
    }
  }

  /// The new token's k and v ([2][kHeadDim] in shared memory) as row `row` of the slice and, when is_stored, as row `page_row`
  /// of their pages. Rows behind become zeros.
  template <uint32_t kPageTokens>
  __device__ __forceinline__ void append(const float* fresh, uint32_t row, uint32_t part, uint8_t* k_page, uint8_t* v_page,
                                         uint32_t page_row, bool is_stored) {
    using Page = KvQ8Page<kHeadDim, kPageTokens>;
#pragma unroll
    for (uint32_t first = 0; first < kHeadDim; first += 128) {
      const uint32_t dim = min_u32(first + 4 * lane_idx(), kHeadDim - 4), block = dim / 32;
      const bool is_live = first + 4 * lane_idx() < kHeadDim;
      const uint32_t place = 32 * kv_block<kHeadDim>(row, block) + dim % 32, part_place = place - part * kPartDims;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(fresh + i * kHeadDim + dim);
        const uint32_t largest = group_max<8>(max_magnitude(0, x)), quants = q8_quants(x, largest);
        const uint16_t scale = q8_scale(largest);
        if (!is_live) continue;
        if (i == 0) *reinterpret_cast<uint32_t*>(k[row] + place) = quants;
        else if (part_place < kPartDims) *reinterpret_cast<uint32_t*>(v[row] + part_place) = quants;
        if (dim % 32 == 0) (i == 0 ? k_scales : v_scales)[row][block] = scale;
        if (!is_stored) continue;
        uint8_t* const page = i == 0 ? k_page : v_page;
        *reinterpret_cast<uint32_t*>(page + page_row * kHeadDim + place) = quants;
        if (dim % 32 == 0) reinterpret_cast<uint16_t*>(page + Page::kScales + page_row * Page::kScaleRowBytes)[block] = scale;
      }
    }
    for (uint32_t r = row + 1; r < kTokens; ++r) {
      for (uint32_t i = lane_idx(); i < kHeadDim / 4; i += kWarpLanes) reinterpret_cast<uint32_t*>(k[r])[i] = 0;
      for (uint32_t i = lane_idx(); i < kPartDims / 4; i += kWarpLanes) reinterpret_cast<uint32_t*>(v[r])[i] = 0;
      for (uint32_t i = lane_idx(); i < kBlocks; i += kWarpLanes) k_scales[r][i] = 0, v_scales[r][i] = 0;
    }
  }

  /// Keys of tokens first .. first + 7 in block `block`, as B of two tiles: b[tile].
  __device__ __forceinline__ void key_fragments(uint32_t first, uint32_t block, uint32_t (&b)[2][2]) const {
    const uint32_t token = first + lane_idx() / 4;
    const uint2 quants = *reinterpret_cast<const uint2*>(k[token] + 32 * kv_block<kHeadDim>(token, block) + 8 * (lane_idx() % 4));
    const uint32_t scales = k_scales[token][block] * 0x10001u;
    q8_halves(quants.x, scales, b[0]);
    q8_halves(quants.y, scales, b[1]);
  }

  /// Values of all tokens in block `block` of the part, as B of four tiles of 8 dims: dim 4 n + i of the block is column n of
  /// b[i].
  __device__ __forceinline__ void value_fragments(uint32_t part, uint32_t block, uint32_t (&b)[4][2]) const {
    const uint32_t whole_block = part * kPartBlocks + block;
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      uint32_t quants[2], scales = 0;
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t token = 8 * j + 2 * (lane_idx() % 4) + e, place = kv_block<kHeadDim>(token, whole_block) - part * kPartBlocks;
        quants[e] = *reinterpret_cast<const uint32_t*>(v[token] + 32 * place + lane_idx() / 4 * 4);
        scales |= static_cast<uint32_t>(v_scales[token][whole_block]) << (16 * e);
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {   // dims 2 i, 2 i + 1 of both tokens
        uint32_t pair[2];
        q8_halves(__byte_perm(quants[0], quants[1], i == 0 ? 0x5140u : 0x7362u), scales, pair);
        b[2 * i][j] = pair[0], b[2 * i + 1][j] = pair[1];
      }
    }
  }
};

}  // namespace sj
