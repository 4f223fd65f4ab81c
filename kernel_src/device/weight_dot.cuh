// Dot products of quantised weights with int8 activations, 32 weights (a chunk) at a time, exact in integers.
// Weights: row records (kernel_src/weight_layout.h) in shared memory. Activations: QuantVec below.
//
// Every type is brought to one form:  sum_i w[i] x[i] = scale_lo * d_lo * sum_{i<16} q[i] a[i] + offset_lo * s_lo  (+ the same
// for i >= 16), where x[i] = d * a[i] with int8 a, and s = d * sum a. A lane can prepare a chunk (unpack it) before it knows x.
#pragma once

#include "device/ptx.cuh"
#include "device/weight_rows.cuh"

namespace sj {

/// A chunk of activations in registers.
struct ActChunk {
  uint32_t a[8];       ///< int8: words 0..3 are x[0..15], words 4..7 x[16..31]
  float d_lo, d_hi;    ///< scale of the two groups of 16
  float s_lo, s_hi;    ///< d times the sum of a
};

/// kDim activations quantised to int8 in groups of 16; the same in shared and in global memory.
template <uint32_t kDim>
struct alignas(16) QuantVec {
  uint4 lo[kDim / 32];     ///< a of x[0..15] of every chunk
  uint4 hi[kDim / 32];     ///< a of x[16..31]
  float4 meta[kDim / 32];  ///< d_lo, s_lo, d_hi, s_hi

  __device__ __forceinline__ ActChunk chunk(uint32_t c) const {
    const uint4 l = lo[c], h = hi[c];
    const float4 m = meta[c];
    return {{l.x, l.y, l.z, l.w, h.x, h.y, h.z, h.w}, m.x, m.z, m.y, m.w};
  }
};

/// The input of a stage behind an RMSNorm that is not applied yet: x * norm_weight, and sums of squares of x by 16 values.
/// The factor 1 / rms is a scalar that the consumer multiplies its results with.
template <uint32_t kDim>
struct alignas(16) NormedVec {
  QuantVec<kDim> q;
  float square_sums[kDim / 16];
};

/// A chunk of weights, unpacked.
struct WeightChunk {
  uint32_t q[8];                  ///< bytes; signed where has_signed_quants
  float scale_lo, scale_hi;
  float offset_lo, offset_hi;
};

/// Keeps the compiler from unpacking later than here.
__device__ __forceinline__ void compute_here(WeightChunk& w) {
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) compute_here(w.q[i]);
  compute_here(w.scale_lo), compute_here(w.scale_hi), compute_here(w.offset_lo), compute_here(w.offset_hi);
}

/// Bytes of `q` are int8 (else uint8).
__device__ __forceinline__ constexpr bool has_signed_quants(uint32_t type) {
  return type == kTypeQ8_0 || type == kTypeIQ4_NL || type == kTypeIQ4_XS || type == kTypeMXFP4 || type == kTypeNVFP4;
}

template <uint32_t kType>
__device__ __forceinline__ float dot(const WeightChunk& w, const ActChunk& x) {
  int32_t lo = 0, hi = 0;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    lo = has_signed_quants(kType) ? dp4a_ss(w.q[i], x.a[i], lo) : dp4a_us(w.q[i], x.a[i], lo);
    hi = has_signed_quants(kType) ? dp4a_ss(w.q[4 + i], x.a[4 + i], hi) : dp4a_us(w.q[4 + i], x.a[4 + i], hi);
  }
  float y = (w.scale_lo * x.d_lo) * static_cast<float>(lo) + (w.scale_hi * x.d_hi) * static_cast<float>(hi);
  if constexpr (!has_signed_quants(kType)) y += w.offset_lo * x.s_lo + w.offset_hi * x.s_hi;
  return y;
}

namespace unpack {

__device__ __forceinline__ uint4 words4(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
__device__ __forceinline__ uint2 words2(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }
__device__ __forceinline__ uint32_t word(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }
__device__ __forceinline__ uint32_t half(const uint8_t* p) { return *reinterpret_cast<const uint16_t*>(p); }
__device__ __forceinline__ float f16(const uint8_t* p) { return half_to_float(*reinterpret_cast<const uint16_t*>(p)); }

/// The high nibbles stay in place: such quants are 16 times too large, exactly; the scale makes up for it.
__device__ __forceinline__ void nibbles_in_place(const uint8_t* plane, uint32_t chunk, uint32_t (&q)[8]) {
  const uint4 v = words4(plane + 16 * chunk);
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) q[i] = w[i] & 0x0F0F0F0Fu, q[4 + i] = w[i] & 0xF0F0F0F0u;
}
__device__ __forceinline__ void nibbles(const uint8_t* plane, uint32_t chunk, uint32_t (&q)[8]) {
  const uint4 v = words4(plane + 16 * chunk);
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) q[i] = w[i] & 0x0F0F0F0Fu, q[4 + i] = w[i] >> 4 & 0x0F0F0F0Fu;
}
/// Adds plane qh1 as bit kBit of every quant.
template <uint32_t kBit>
__device__ __forceinline__ void add_bit(uint32_t qh1, uint32_t (&q)[8]) {
#pragma unroll
  for (uint32_t g = 0; g < 8; ++g) q[g] |= (g <= kBit ? qh1 << (kBit - g) : qh1 >> (g - kBit)) & (0x01010101u << kBit);
}
/// Adds plane qh2 as bits kBit, kBit + 1 of every quant.
template <uint32_t kBit>
__device__ __forceinline__ void add_two_bits(uint2 qh2, uint32_t (&q)[8]) {
#pragma unroll
  for (uint32_t g = 0; g < 8; ++g) {
    const uint32_t w = g < 4 ? qh2.x : qh2.y, at = 2 * (g % 4);
    q[g] |= (at <= kBit ? w << (kBit - at) : w >> (at - kBit)) & (0x03030303u << kBit);
  }
}
/// Replaces 4-bit codes by signed bytes of a table of 16, given as four words.
__device__ __forceinline__ void look_up(const uint8_t* plane, uint32_t chunk, uint32_t t0, uint32_t t1, uint32_t t2, uint32_t t3,
                                        uint32_t (&q)[8]) {
  const uint4 v = words4(plane + 16 * chunk);
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t r[2];
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {   // nibbles 4h .. 4h + 3: low and high of two bytes
      const uint32_t code = w[i] >> (16 * h) & 0xFFFFu, index = code & 0x7777u;
      r[h] = __byte_perm(__byte_perm(t0, t1, index), __byte_perm(t2, t3, index), 0x3210u | (code & 0x8888u) >> 1);
    }
    q[i] = __byte_perm(r[0], r[1], 0x6420u);
    q[4 + i] = __byte_perm(r[0], r[1], 0x7531u);
  }
}
/// Scale and minimum of chunk j of a superblock header (plane hdrK).
__device__ __forceinline__ float2 scale_min(const uint4& header, uint32_t j) {
  const uint32_t a = __byte_perm(header.y, header.z, j), m = header.w >> (4 * j);
  return make_float2(static_cast<float>(static_cast<int32_t>(a & 63u)),
                     static_cast<float>(static_cast<int32_t>((a >> 2 & 0x30u) | (m & 15u))));
}

}  // namespace unpack

/// Unpacks chunk `chunk` of a row record of kCols weights in shared memory. Requires a quantised kType.
template <uint32_t kType, uint32_t kCols>
__device__ __forceinline__ WeightChunk weight_chunk(const uint8_t* row, uint32_t chunk) {
  using namespace unpack;
  constexpr uint32_t n = kCols / 32, s = kCols / 256;
  static_assert(!is_float_type(kType), "int8 activations go with quantised weights");
  WeightChunk w;
  w.offset_lo = w.offset_hi = 0.0f;
  if constexpr (kType == kTypeQ4_0 || kType == kTypeQ4_1) {
    nibbles_in_place(row, chunk, w.q);
    if constexpr (kType == kTypeQ4_0) {
      w.scale_lo = f16(row + 16 * n + 2 * chunk);
      w.offset_lo = w.offset_hi = -8.0f * w.scale_lo;
    } else {
      const uint32_t dm = word(row + 16 * n + 4 * chunk);
      w.scale_lo = low_half(dm);
      w.offset_lo = w.offset_hi = high_half(dm);
    }
    w.scale_hi = w.scale_lo * 0.0625f;
  } else if constexpr (kType == kTypeQ5_0 || kType == kTypeQ5_1) {
    nibbles(row, chunk, w.q);
    add_bit<4>(word(row + 16 * n + 4 * chunk), w.q);
    if constexpr (kType == kTypeQ5_0) {
      w.scale_lo = w.scale_hi = f16(row + 20 * n + 2 * chunk);
      w.offset_lo = w.offset_hi = -16.0f * w.scale_lo;
    } else {
      const uint32_t dm = word(row + 20 * n + 4 * chunk);
      w.scale_lo = w.scale_hi = low_half(dm);
      w.offset_lo = w.offset_hi = high_half(dm);
    }
  } else if constexpr (kType == kTypeQ8_0) {
    const uint4 a = words4(row + 16 * chunk), b = words4(row + 16 * (n + chunk));
    w.q[0] = a.x, w.q[1] = a.y, w.q[2] = a.z, w.q[3] = a.w, w.q[4] = b.x, w.q[5] = b.y, w.q[6] = b.z, w.q[7] = b.w;
    w.scale_lo = w.scale_hi = f16(row + 32 * n + 2 * chunk);
  } else if constexpr (kType == kTypeQ4_K || kType == kTypeQ5_K) {
    const uint4 header = words4(row + 16 * n + 16 * (chunk / 8));
    const float2 sm = scale_min(header, chunk % 8);
    w.scale_lo = low_half(header.x) * sm.x;
    w.offset_lo = w.offset_hi = -(high_half(header.x) * sm.y);
    if constexpr (kType == kTypeQ4_K) {
      nibbles_in_place(row, chunk, w.q);
      w.scale_hi = w.scale_lo * 0.0625f;
    } else {
      nibbles(row, chunk, w.q);
      add_bit<4>(word(row + 16 * n + 16 * s + 4 * chunk), w.q);
      w.scale_hi = w.scale_lo;
    }
  } else if constexpr (kType == kTypeQ6_K) {
    nibbles(row, chunk, w.q);
    add_two_bits<4>(words2(row + 16 * n + 8 * chunk), w.q);
    const uint32_t sc = half(row + 24 * n + 2 * chunk);
    const float d = f16(row + 26 * n + 2 * (chunk / 8));
    w.scale_lo = d * signed_byte(sc, 0), w.scale_hi = d * signed_byte(sc, 1);
    w.offset_lo = -32.0f * w.scale_lo, w.offset_hi = -32.0f * w.scale_hi;
  } else if constexpr (kType == kTypeQ3_K) {   // 4 is added to the quant where its high bit is set, and subtracted everywhere
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) w.q[i] = 0;
    add_two_bits<0>(words2(row + 8 * chunk), w.q);
    add_bit<2>(word(row + 8 * n + 4 * chunk), w.q);
    const uint32_t sc = half(row + 12 * n + 2 * chunk);
    const float d = f16(row + 14 * n + 2 * (chunk / 8));
    w.scale_lo = d * signed_byte(sc, 0), w.scale_hi = d * signed_byte(sc, 1);
    w.offset_lo = -4.0f * w.scale_lo, w.offset_hi = -4.0f * w.scale_hi;
  } else if constexpr (kType == kTypeQ2_K) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) w.q[i] = 0;
    add_two_bits<0>(words2(row + 8 * chunk), w.q);
    const uint32_t sm = half(row + 8 * n + 2 * chunk), dd = word(row + 10 * n + 4 * (chunk / 8));
    const float d = low_half(dd), d_min = high_half(dd);
    w.scale_lo = d * static_cast<float>(sm & 15), w.scale_hi = d * static_cast<float>(sm >> 8 & 15);
    w.offset_lo = -(d_min * static_cast<float>(sm >> 4 & 15)), w.offset_hi = -(d_min * static_cast<float>(sm >> 12));
  } else if constexpr (kType == kTypeIQ4_NL || kType == kTypeIQ4_XS) {
    look_up(row, chunk, 0xBFAD9881u, 0xF6EADDCFu, 0x26190D01u, 0x71594535u, w.q);
    if constexpr (kType == kTypeIQ4_NL) {
      w.scale_lo = w.scale_hi = f16(row + 16 * n + 2 * chunk);
    } else {
      w.scale_lo = w.scale_hi = f16(row + 18 * n + 2 * (chunk / 8)) * signed_byte(half(row + 16 * n + 2 * chunk), 0);
    }
  } else {
    static_assert(kType == kTypeMXFP4 || kType == kTypeNVFP4, "unknown weight type");
    look_up(row, chunk, 0x03020100u, 0x0C080604u, 0xFDFEFF00u, 0xF4F8FAFCu, w.q);
    if constexpr (kType == kTypeMXFP4) {
      w.scale_lo = w.scale_hi = e8m0_half(row[16 * n + chunk]);
    } else {
      const uint32_t u = half(row + 16 * n + 2 * chunk);
      w.scale_lo = ue4m3_half(u & 0xFF), w.scale_hi = ue4m3_half(u >> 8);
    }
  }
  return w;
}

}  // namespace sj
