// Reads weights from row records (kernel_src/weight_layout.h tells the layout) and dequantises 32 of them at a time to f32,
// in the order of operations of the GGUF specification: bit-equal with the file's values but for d * q + m, which the
// compiler may round once instead of twice.
// Requires: `row` 16-byte aligned, n_cols a multiple of the type's block.
#pragma once

#include "device/ptx.cuh"

namespace sj {

/// ggml's type ids: baked as kDtype.
enum WeightType : uint32_t {
  kTypeF32 = 0, kTypeF16 = 1, kTypeQ4_0 = 2, kTypeQ4_1 = 3, kTypeQ5_0 = 6, kTypeQ5_1 = 7, kTypeQ8_0 = 8,
  kTypeQ2_K = 10, kTypeQ3_K = 11, kTypeQ4_K = 12, kTypeQ5_K = 13, kTypeQ6_K = 14,
  kTypeIQ4_NL = 20, kTypeIQ4_XS = 23, kTypeBF16 = 30, kTypeMXFP4 = 39, kTypeNVFP4 = 40,
};

inline constexpr uint32_t kChunkWeights = 32;

__device__ __forceinline__ constexpr bool is_float_type(uint32_t type) {
  return type == kTypeF32 || type == kTypeF16 || type == kTypeBF16;
}

/// Exact float of an integer below 2^23: one OR and one subtraction instead of a conversion.
__device__ __forceinline__ float small_to_float(uint32_t q) { return __uint_as_float(0x4B000000u | q) - 8388608.0f; }

/// Value of a UE4M3 scale byte, halved because kFp4Table is doubled; 0 and 0x7F give 0, bit 7 is ignored.
__device__ __forceinline__ float ue4m3_half(uint32_t byte) {
  const uint32_t x = byte & 0x7F;
  if (x == 0 || x == 0x7F) return 0.0f;
  const uint32_t exponent = x >> 3, mantissa = x & 7;
  if (exponent == 0) return small_to_float(mantissa) * 0.0009765625f;  // mantissa * 2^-9 / 2
  return __uint_as_float((exponent + 119) << 23 | mantissa << 20);    // (1 + m/8) * 2^(e - 7 - 1)
}

/// 2^(e - 128): an E8M0 scale, halved because kFp4Table is doubled; subnormal for e < 2.
__device__ __forceinline__ float e8m0_half(uint32_t e) {
  return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
}

/// Twice the value of an E2M1 code (0..15); code 8, a negative zero, gives +0 as in the file format.
__device__ __forceinline__ float fp4_doubled(uint32_t code) {
  const float magnitude = small_to_float(static_cast<uint32_t>(0x0C08060403020100ull >> (8 * (code & 7))) & 0xFF);
  return code & 8 ? 0.0f - magnitude : magnitude;
}

/// The non-linear 4-bit codebook of IQ4_NL and IQ4_XS: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113.
__device__ __forceinline__ float iq4_value(uint32_t code) {
  const uint64_t table = code & 8 ? 0x7159453526190D01ull : 0xF6EADDCFBFAD9881ull;
  return static_cast<float>(static_cast<int8_t>(table >> (8 * (code & 7))));
}

/// The quants of one chunk as the planes store them.
struct ChunkBits {
  uint32_t low4[4];   ///< qs4
  uint32_t mid2[2];   ///< qh2
  uint32_t high1;     ///< qh1

  __device__ __forceinline__ void load_low4(const uint8_t* plane, uint32_t chunk) {
    const uint4 v = ld_weight_v4(plane + chunk * 16);
    low4[0] = v.x, low4[1] = v.y, low4[2] = v.z, low4[3] = v.w;
  }
  __device__ __forceinline__ void load_mid2(const uint8_t* plane, uint32_t chunk) {
    const uint2 v = ld_weight_v2(plane + chunk * 8);
    mid2[0] = v.x, mid2[1] = v.y;
  }
  __device__ __forceinline__ void load_high1(const uint8_t* plane, uint32_t chunk) { high1 = ld_weight_u32(plane + chunk * 4); }

  /// Parts of weight i (0..31), shifted down to bit 0.
  __device__ __forceinline__ uint32_t low4_at(uint32_t i) const {
    return low4[i % 16 / 4] >> (8 * (i % 4) + 4 * (i / 16)) & 15;
  }
  __device__ __forceinline__ uint32_t mid2_at(uint32_t i) const {
    return mid2[i / 16] >> (8 * (i % 4) + 2 * (i / 4 % 4)) & 3;
  }
  __device__ __forceinline__ uint32_t high1_at(uint32_t i) const { return high1 >> (8 * (i % 4) + i / 4) & 1; }
};

/// Two halves of a 32-bit word.
__device__ __forceinline__ float low_half(uint32_t word) { return half_to_float(static_cast<uint16_t>(word)); }
__device__ __forceinline__ float high_half(uint32_t word) { return half_to_float(static_cast<uint16_t>(word >> 16)); }
__device__ __forceinline__ float signed_byte(uint32_t word, uint32_t i) {
  return static_cast<float>(static_cast<int8_t>(word >> (8 * i)));
}

/// F32, F16, BF16: 16-byte pieces; pieces past the row are zeros.
template <uint32_t kType>
__device__ __forceinline__ void dequant_float_chunk(const uint8_t* row, uint32_t n_cols, uint32_t chunk, float (&out)[32]) {
  constexpr uint32_t kElemBytes = kType == kTypeF32 ? 4 : 2;
  constexpr uint32_t kPerPiece = 16 / kElemBytes;
#pragma unroll
  for (uint32_t p = 0; p < kChunkWeights / kPerPiece; ++p) {
    const uint32_t first = chunk * kChunkWeights + p * kPerPiece;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (first < n_cols) v = ld_weight_v4(row + static_cast<size_t>(first) * kElemBytes);  // a record ends in zeros
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if constexpr (kType == kTypeF32) {
        out[p * 4 + i] = __uint_as_float(words[i]);
      } else if constexpr (kType == kTypeF16) {
        out[p * 8 + 2 * i] = low_half(words[i]);
        out[p * 8 + 2 * i + 1] = high_half(words[i]);
      } else {
        out[p * 8 + 2 * i] = __uint_as_float(words[i] << 16);
        out[p * 8 + 2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
      }
    }
  }
}

/// Types of 32-weight blocks: 4-bit, 5-bit and 8-bit integers with one scale (and minimum) a chunk.
template <uint32_t kType>
__device__ __forceinline__ void dequant_simple_chunk(const uint8_t* row, uint32_t n_chunks, uint32_t chunk, float (&out)[32]) {
  ChunkBits q;
  if constexpr (kType == kTypeQ8_0) {
    const uint4 a = ld_weight_v4(row + chunk * 16), b = ld_weight_v4(row + (n_chunks + chunk) * 16);
    const float d = half_to_float(ld_weight_u16(row + n_chunks * 32 + chunk * 2));
    const uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (uint32_t i = 0; i < 32; ++i) out[i] = d * signed_byte(words[i / 4], i % 4);
  } else {
    q.load_low4(row, chunk);
    const uint8_t* rest = row + n_chunks * 16;
    if constexpr (kType == kTypeQ5_0 || kType == kTypeQ5_1) {
      q.load_high1(rest, chunk);
      rest += n_chunks * 4;
    }
    if constexpr (kType == kTypeQ4_1 || kType == kTypeQ5_1) {
      const uint32_t dm = ld_weight_u32(rest + chunk * 4);
      const float d = low_half(dm), m = high_half(dm);
#pragma unroll
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t v = kType == kTypeQ5_1 ? q.low4_at(i) | q.high1_at(i) << 4 : q.low4_at(i);
        out[i] = d * small_to_float(v) + m;
      }
    } else {
      const float d = half_to_float(ld_weight_u16(rest + chunk * 2));
#pragma unroll
      for (uint32_t i = 0; i < 32; ++i) {
        if constexpr (kType == kTypeIQ4_NL) {
          out[i] = d * iq4_value(q.low4_at(i));
        } else if constexpr (kType == kTypeQ5_0) {
          out[i] = d * (small_to_float(q.low4_at(i) | q.high1_at(i) << 4) - 16.0f);
        } else {
          out[i] = d * (small_to_float(q.low4_at(i)) - 8.0f);
        }
      }
    }
  }
}

/// FP4 types.
template <uint32_t kType>
__device__ __forceinline__ void dequant_fp4_chunk(const uint8_t* row, uint32_t n_chunks, uint32_t chunk, float (&out)[32]) {
  ChunkBits q;
  q.load_low4(row, chunk);
  const uint8_t* scales = row + n_chunks * 16;
  float scale[2];
  if constexpr (kType == kTypeMXFP4) {
    scale[0] = scale[1] = e8m0_half(ld_weight_u8(scales + chunk));
  } else {
    const uint32_t u = ld_weight_u16(scales + chunk * 2);
    scale[0] = ue4m3_half(u & 0xFF), scale[1] = ue4m3_half(u >> 8);
  }
#pragma unroll
  for (uint32_t i = 0; i < 32; ++i) out[i] = scale[i / 16] * fp4_doubled(q.low4_at(i));
}

/// Q4_K and Q5_K: d * sc * q - dmin * m with 6-bit sc and m a chunk.
template <uint32_t kType>
__device__ __forceinline__ void dequant_k45_chunk(const uint8_t* row, uint32_t n_chunks, uint32_t chunk, float (&out)[32]) {
  ChunkBits q;
  q.load_low4(row, chunk);
  const uint8_t* headers = row + n_chunks * 16;
  const uint4 h = ld_weight_v4(headers + chunk / 8 * 16);
  if constexpr (kType == kTypeQ5_K) q.load_high1(headers + n_chunks / 8 * 16, chunk);
  const uint32_t c = chunk % 8;
  const uint32_t scale_byte = (c < 4 ? h.y : h.z) >> (8 * (c % 4)) & 0xFF;
  const uint32_t min_bits = (h.w >> (4 * c) & 15) | (scale_byte >> 6) << 4;
  const float scale = low_half(h.x) * small_to_float(scale_byte & 63);
  const float minimum = high_half(h.x) * small_to_float(min_bits);
#pragma unroll
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t v = kType == kTypeQ5_K ? q.low4_at(i) | q.high1_at(i) << 4 : q.low4_at(i);
    out[i] = scale * small_to_float(v) - minimum;
  }
}

/// Q6_K, Q3_K, IQ4_XS: d * s * (q - zero) with a signed 8-bit s every 16 weights.
template <uint32_t kType>
__device__ __forceinline__ void dequant_s16_chunk(const uint8_t* row, uint32_t n_chunks, uint32_t chunk, float (&out)[32]) {
  ChunkBits q;
  const uint8_t* rest = row;
  if constexpr (kType != kTypeQ3_K) {
    q.load_low4(rest, chunk);
    rest += n_chunks * 16;
  }
  if constexpr (kType != kTypeIQ4_XS) {
    q.load_mid2(rest, chunk);
    rest += n_chunks * 8;
  }
  if constexpr (kType == kTypeQ3_K) {
    q.load_high1(rest, chunk);
    rest += n_chunks * 4;
  }
  const uint32_t s = ld_weight_u16(rest + chunk * 2);
  const float d = half_to_float(ld_weight_u16(rest + n_chunks * 2 + chunk / 8 * 2));
  const float scale[2] = {d * signed_byte(s, 0), d * signed_byte(s, 1)};
#pragma unroll
  for (uint32_t i = 0; i < 32; ++i) {
    if constexpr (kType == kTypeQ6_K) {
      out[i] = scale[i / 16] * (small_to_float(q.low4_at(i) | q.mid2_at(i) << 4) - 32.0f);
    } else if constexpr (kType == kTypeQ3_K) {
      out[i] = scale[i / 16] * (small_to_float(q.mid2_at(i) | q.high1_at(i) << 2) - 4.0f);  // set bit: nothing subtracted
    } else {
      out[i] = scale[i / 16] * iq4_value(q.low4_at(i));
    }
  }
}

/// Q2_K: d * sc * q - dmin * m with 4-bit sc and m every 16 weights.
__device__ __forceinline__ void dequant_q2k_chunk(const uint8_t* row, uint32_t n_chunks, uint32_t chunk, float (&out)[32]) {
  ChunkBits q;
  q.load_mid2(row, chunk);
  const uint32_t sm = ld_weight_u16(row + n_chunks * 8 + chunk * 2);
  const uint32_t dd = ld_weight_u32(row + n_chunks * 10 + chunk / 8 * 4);
  const float d = low_half(dd), dmin = high_half(dd);
  const float scale[2] = {d * small_to_float(sm & 15), d * small_to_float(sm >> 8 & 15)};
  const float minimum[2] = {dmin * small_to_float(sm >> 4 & 15), dmin * small_to_float(sm >> 12)};
#pragma unroll
  for (uint32_t i = 0; i < 32; ++i) out[i] = scale[i / 16] * small_to_float(q.mid2_at(i)) - minimum[i / 16];
}

/// out[i] = weight 32 * chunk + i of the row, for any weight type. Requires 32 * chunk < n_cols.
template <uint32_t kType>
__device__ __forceinline__ void dequant_chunk(const uint8_t* row, uint32_t n_cols, uint32_t chunk, float (&out)[32]) {
  const uint32_t n_chunks = n_cols / kChunkWeights;
  if constexpr (is_float_type(kType)) {
    dequant_float_chunk<kType>(row, n_cols, chunk, out);
  } else if constexpr (kType == kTypeMXFP4 || kType == kTypeNVFP4) {
    dequant_fp4_chunk<kType>(row, n_chunks, chunk, out);
  } else if constexpr (kType == kTypeQ4_K || kType == kTypeQ5_K) {
    dequant_k45_chunk<kType>(row, n_chunks, chunk, out);
  } else if constexpr (kType == kTypeQ6_K || kType == kTypeQ3_K || kType == kTypeIQ4_XS) {
    dequant_s16_chunk<kType>(row, n_chunks, chunk, out);
  } else if constexpr (kType == kTypeQ2_K) {
    dequant_q2k_chunk(row, n_chunks, chunk, out);
  } else {
    static_assert(kType == kTypeQ4_0 || kType == kTypeQ4_1 || kType == kTypeQ5_0 || kType == kTypeQ5_1 ||
                      kType == kTypeQ8_0 || kType == kTypeIQ4_NL,
                  "not a weight type");
    dequant_simple_chunk<kType>(row, n_chunks, chunk, out);
  }
}

}  // namespace sj
