// Where a row's elements lie in a page of the KV cache. Rows are kept in 16-byte units of 8 halves (8 floats in a float cache);
// the units of row r are exchanged among each other, so that a tile that is copied into shared memory as it is can be read by
// columns, eight rows at a time, without bank conflicts.
#pragma once

#include "device/types.cuh"

namespace sj {

/// Place of unit `unit` in row `row` (of a page, or of a tile that starts at a multiple of 8 rows); it is its own inverse.
template <uint32_t kHeadDim>
__device__ __forceinline__ uint32_t kv_unit(uint32_t row, uint32_t unit) {
  constexpr uint32_t kExchanged = kHeadDim % 64 == 0 ? 8 : kHeadDim % 32 == 0 ? 4 : kHeadDim % 16 == 0 ? 2 : 1;
  // Wide heads: the same, with the upper part as an offset, so that a few places serve all units; one each would not fit the
  // registers.
  if constexpr (kHeadDim > 128) return unit / kExchanged * kExchanged + (unit % kExchanged ^ row % kExchanged);
  else return unit ^ (row % kExchanged);
}

/// Place of element `dim` in row `row`.
template <uint32_t kHeadDim>
__device__ __forceinline__ uint32_t kv_elem(uint32_t row, uint32_t dim) {
  return 8 * kv_unit<kHeadDim>(row, dim / 8) + dim % 8;
}

}  // namespace sj
