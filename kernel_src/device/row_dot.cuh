// Dot products of one weight row a warp with a few f32 vectors that the whole block shares. Lane l of a warp takes chunk
// l, l + 32, ... of its row, dequantises it in registers and multiplies it with a tile of the vectors in shared memory.
#pragma once

#include "device/reduce.cuh"
#include "device/weight_rows.cuh"

namespace sj {

/// Chunks of a vector that fit in one tile, and the tile's floats. 36 floats a chunk: 16-byte reads of neighbouring lanes
/// hit different banks.
template <uint32_t kCols, uint32_t kVectors>
struct VectorTile {
  static constexpr uint32_t kChunks = ceil_div(kCols, kChunkWeights);
  static constexpr uint32_t kTileChunks = min_u32(round_up(kChunks, kWarpLanes), kVectors == 1 ? 128 : 32);
  static constexpr uint32_t kStride = 36;
  static constexpr uint32_t kFloats = kVectors * kTileChunks * kStride;
};

/// Dequantises this lane's first chunk: the part of row_dot that may run before pdl_wait().
template <uint32_t kType, uint32_t kCols>
__device__ __forceinline__ void load_first_chunk(const uint8_t* row, float (&w)[32]) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  if (lane * kChunkWeights < kCols) {
    dequant_chunk<kType>(row, kCols, lane, w);
  } else {
#pragma unroll
    for (int i = 0; i < 32; ++i) w[i] = 0.0f;
  }
}

/// acc[v] = row . x[v] for the n_valid first vectors (the others give 0), the same in every lane. `x`: vectors kCols apart,
/// 16-byte aligned. `w`: from load_first_chunk of the same row. `tile`: VectorTile floats of shared memory, 16-byte aligned.
/// Every thread of the block calls it, with any row of the matrix.
template <uint32_t kType, uint32_t kCols, uint32_t kVectors, uint32_t kThreads>
__device__ __forceinline__ void row_dot(const uint8_t* row, float (&w)[32], const float* x, uint32_t n_valid, float* tile,
                                        float (&acc)[kVectors]) {
  using Tile = VectorTile<kCols, kVectors>;
  static_assert(kCols % 4 == 0 && kThreads % kWarpLanes == 0);
  const uint32_t lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (uint32_t v = 0; v < kVectors; ++v) acc[v] = 0.0f;

  for (uint32_t tile_chunk = 0; tile_chunk < Tile::kChunks; tile_chunk += Tile::kTileChunks) {
    if (tile_chunk != 0) __syncthreads();  // every warp is done with the previous tile
    const uint32_t n_quads = Tile::kTileChunks * 8;
    for (uint32_t i = threadIdx.x; i < kVectors * n_quads; i += kThreads) {
      const uint32_t v = i / n_quads, quad = i % n_quads, col = tile_chunk * kChunkWeights + quad * 4;
      float4 value = make_float4(0, 0, 0, 0);
      if (v < n_valid && col < kCols) value = *reinterpret_cast<const float4*>(x + static_cast<size_t>(v) * kCols + col);
      *reinterpret_cast<float4*>(tile + (v * Tile::kTileChunks + quad / 8) * Tile::kStride + quad % 8 * 4) = value;
    }
    __syncthreads();  // the tile is complete
    for (uint32_t c = lane; c < Tile::kTileChunks; c += kWarpLanes) {
      const uint32_t chunk = tile_chunk + c;
      if (chunk >= Tile::kChunks) break;
      if (chunk >= kWarpLanes) dequant_chunk<kType>(row, kCols, chunk, w);
#pragma unroll
      for (uint32_t v = 0; v < kVectors; ++v) {
        const float4* xs = reinterpret_cast<const float4*>(tile + (v * Tile::kTileChunks + c) * Tile::kStride);
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) {
          const float4 value = xs[i];
          acc[v] = fmaf(w[4 * i], value.x, acc[v]);
          acc[v] = fmaf(w[4 * i + 1], value.y, acc[v]);
          acc[v] = fmaf(w[4 * i + 2], value.z, acc[v]);
          acc[v] = fmaf(w[4 * i + 3], value.w, acc[v]);
        }
      }
    }
  }
#pragma unroll
  for (uint32_t v = 0; v < kVectors; ++v) acc[v] = warp_sum(acc[v]);
}

}  // namespace sj
