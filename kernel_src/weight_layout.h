// How weight matrices lie in device memory: one contiguous, 16-byte-aligned record a row, planar inside the row.
// In: rows as GGUF stores them. Out: row records. Called by the weight loader; read by device/weight_rows.cuh.
//
// Row record of K weights: the planes below in this order, each plane K/32 (or K/256) entries long, then zero padding to a
// multiple of 16 bytes. A "chunk" is 32 consecutive weights, c = chunk index in the row; a "group" is 4 consecutive
// weights of a chunk, g = 0..7.
//
//   plane   entry   content
//   qs4     16 B/chunk   byte b (0..15) = q[b] & 15 | (q[b + 16] & 15) << 4           (4-bit part of the quant)
//   qs8     32 B/chunk   stored as two planes of 16 B/chunk: q[0..15] of every chunk, then q[16..31] of every chunk
//   hdrK    16 B/256     word0 = d (half) | dmin (half) << 16; bytes 4..11: byte 4+c = sc_c | (m_c >> 4) << 6 (c = 0..7);
//                        word3: nibble c = m_c & 15          (sc, m: the 6-bit scales and mins of the 8 chunks)
//   qh2      8 B/chunk   2-bit part: word g/4, byte i, bits 2*(g%4).. = bits of weight 4g + i
//   qh1      4 B/chunk   1-bit part: word, byte i, bit g = bit of weight 4g + i
//   dm       4 B/chunk   half d, half m
//   d        2 B/chunk   half d
//   s16      2 B/chunk   two int8 scales, weights 0..15 and 16..31
//   sm16     2 B/chunk   two bytes sc | m << 4, weights 0..15 and 16..31
//   e        1 B/chunk   E8M0 exponent
//   u2       2 B/chunk   two UE4M3 scales, weights 0..15 and 16..31
//   dK       2 B/256     half d
//   ddK      4 B/256     half d, half dmin
//
//   type     planes                      type     planes
//   Q4_0     qs4 d                       Q4_K     qs4 hdrK
//   Q4_1     qs4 dm                      Q5_K     qs4 hdrK qh1
//   Q5_0     qs4 qh1 d                   Q6_K     qs4 qh2 s16 dK            (q = qs4 | qh2 << 4, 0..63)
//   Q5_1     qs4 qh1 dm                  Q3_K     qh2 qh1 s16 dK            (q = qh2, minus 4 unless qh1; s16 = sc - 32)
//   Q8_0     qs8 d                       Q2_K     qh2 sm16 ddK              (q = qh2)
//   IQ4_NL   qs4 d                       IQ4_XS   qs4 s16 dK                (s16: ls - 32 twice)
//   MXFP4    qs4 e                       NVFP4    qs4 u2
//   F32 F16 BF16   the row as it is
//
// The planes lie in the order of the table without gaps; n_cols being a multiple of the block, each entry is naturally
// aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "jit/base/dtype.h"

namespace sj {

/// Bytes of one row record; a multiple of 16. Throws kUnsupported when `n_cols` is not a multiple of the type's block (or,
/// for F32/F16/BF16, not a multiple of 4).
uint64_t row_record_bytes(DType dtype, uint64_t n_cols);

/// One plane of a row record; qs8 counts as two, "qs8.0" and "qs8.1". The row as it is (F32 F16 BF16) is one plane "row".
struct WeightPlane {
  std::string_view name;
  uint32_t entry_bytes = 0;
  uint32_t entry_elems = 0;    ///< weights an entry serves: 32 or 256 (1 for "row")
  uint64_t offset_bytes = 0;   ///< from the record's start
  uint64_t n_bytes = 0;
};
/// The planes of one row record in memory order. Throws as row_record_bytes.
std::vector<WeightPlane> row_planes(DType dtype, uint64_t n_cols);

/// Writes the record of one row. `row` holds n_cols / block_elems blocks in file order; `out` row_record_bytes() bytes.
/// Throws as row_record_bytes, and kInternal when a span has another size.
void repack_row(DType dtype, uint64_t n_cols, std::span<const std::byte> row, std::span<std::byte> out);

}  // namespace sj
