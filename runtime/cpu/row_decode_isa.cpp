// Rows of the common block types to float, written as loops that compilers vectorise. Compiled once an instruction set
// (SJ_ISA names the namespace), without fused multiply-add: values are those of dequantise(), bit for bit. Block layouts:
// GGUF specification, tensor encodings. Includes no header with inline functions of its own, see vector_math_isa.cpp.
#include "runtime/cpu/vector_kernels.h"

namespace sj::SJ_ISA {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place as little-endian");

inline uint16_t load_u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }
inline uint32_t load_u32(const uint8_t* p) {
  return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}

/// Moves exponent and mantissa to their float places and rescales by 2^112: exact for normal and subnormal halves.
inline float half_value(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7FFFu;
  const float scaled = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude << 13 | 0x7F800000u;
  const uint32_t value = magnitude >= 0x7C00u ? special : __builtin_bit_cast(uint32_t, scaled);
  return __builtin_bit_cast(float, uint32_t(bits & 0x8000u) << 16 | value);
}

void half_to_float(const uint16_t* src, float* dst, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = half_value(src[i]);
}

void decode_f16(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = half_value(uint16_t(src[2 * i] | src[2 * i + 1] << 8));
}

void decode_bf16(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t i = 0; i < n; ++i)
    dst[i] = __builtin_bit_cast(float, uint32_t(src[2 * i]) << 16 | uint32_t(src[2 * i + 1]) << 24);
}

void decode_q4_0(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, src += 18, dst += 32) {
    const float d = half_value(load_u16(src));
    for (int j = 0; j < 16; ++j) dst[j] = float(int(src[2 + j] & 15) - 8) * d;
    for (int j = 0; j < 16; ++j) dst[16 + j] = float(int(src[2 + j] >> 4) - 8) * d;
  }
}

void decode_q4_1(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, src += 20, dst += 32) {
    const float d = half_value(load_u16(src)), m = half_value(load_u16(src + 2));
    for (int j = 0; j < 16; ++j) dst[j] = float(int(src[4 + j] & 15)) * d + m;
    for (int j = 0; j < 16; ++j) dst[16 + j] = float(int(src[4 + j] >> 4)) * d + m;
  }
}

void decode_q5_0(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, src += 22, dst += 32) {
    const float d = half_value(load_u16(src));
    const uint32_t high = load_u32(src + 2);
    for (int j = 0; j < 16; ++j) dst[j] = float((int(src[6 + j] & 15) | int(high >> j & 1) << 4) - 16) * d;
    for (int j = 0; j < 16; ++j) dst[16 + j] = float((int(src[6 + j] >> 4) | int(high >> (16 + j) & 1) << 4) - 16) * d;
  }
}

void decode_q5_1(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, src += 24, dst += 32) {
    const float d = half_value(load_u16(src)), m = half_value(load_u16(src + 2));
    const uint32_t high = load_u32(src + 4);
    for (int j = 0; j < 16; ++j) dst[j] = float(int(src[8 + j] & 15) | int(high >> j & 1) << 4) * d + m;
    for (int j = 0; j < 16; ++j) dst[16 + j] = float(int(src[8 + j] >> 4) | int(high >> (16 + j) & 1) << 4) * d + m;
  }
}

void decode_q8_0(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, src += 34, dst += 32) {
    const float d = half_value(load_u16(src));
    for (int j = 0; j < 32; ++j) dst[j] = float(int(int8_t(src[2 + j]))) * d;
  }
}

/// The 6-bit scale and min of chunk c (0..7) of a K block.
inline void scale_and_min(const uint8_t* s, int c, float& scale, float& min) {
  if (c < 4) {
    scale = float(s[c] & 63);
    min = float(s[c + 4] & 63);
  } else {
    scale = float((s[c + 4] & 15) | (s[c - 4] >> 6) << 4);
    min = float((s[c + 4] >> 4) | (s[c] >> 6) << 4);
  }
}

void decode_q4_k(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 256; ++b, src += 144, dst += 256) {
    const float d = half_value(load_u16(src)), dmin = half_value(load_u16(src + 2));
    for (int c = 0; c < 8; c += 2) {
      const uint8_t* __restrict q = src + 16 + 16 * c;
      float s0, m0, s1, m1;
      scale_and_min(src + 4, c, s0, m0);
      scale_and_min(src + 4, c + 1, s1, m1);
      const float d0 = d * s0, d1 = d * s1, min0 = dmin * m0, min1 = dmin * m1;
      float* __restrict out = dst + 32 * c;
      for (int j = 0; j < 32; ++j) out[j] = d0 * float(int(q[j] & 15)) - min0;
      for (int j = 0; j < 32; ++j) out[32 + j] = d1 * float(int(q[j] >> 4)) - min1;
    }
  }
}

void decode_q5_k(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 256; ++b, src += 176, dst += 256) {
    const float d = half_value(load_u16(src)), dmin = half_value(load_u16(src + 2));
    const uint8_t* __restrict high = src + 16;
    for (int c = 0; c < 8; c += 2) {
      const uint8_t* __restrict q = src + 48 + 16 * c;
      float s0, m0, s1, m1;
      scale_and_min(src + 4, c, s0, m0);
      scale_and_min(src + 4, c + 1, s1, m1);
      const float d0 = d * s0, d1 = d * s1, min0 = dmin * m0, min1 = dmin * m1;
      float* __restrict out = dst + 32 * c;
      for (int j = 0; j < 32; ++j) out[j] = d0 * float(int(q[j] & 15) + (int(high[j] >> c & 1) << 4)) - min0;
      for (int j = 0; j < 32; ++j) out[32 + j] = d1 * float(int(q[j] >> 4) + (int(high[j] >> (c + 1) & 1) << 4)) - min1;
    }
  }
}

void decode_q6_k(const uint8_t* __restrict src, float* __restrict dst, size_t n) {
  for (size_t b = 0; b < n / 256; ++b, src += 210, dst += 256) {
    const float d = half_value(load_u16(src + 208));
    for (int half = 0; half < 2; ++half) {
      const uint8_t* __restrict low = src + 64 * half;
      const uint8_t* __restrict high = src + 128 + 32 * half;
      float ds[8];
      for (int i = 0; i < 8; ++i) ds[i] = d * float(int(int8_t(src[192 + 8 * half + i])));
      for (int quarter = 0; quarter < 4; ++quarter)
        for (int sixteen = 0; sixteen < 2; ++sixteen) {
          const uint8_t* __restrict l = low + 32 * (quarter & 1) + 16 * sixteen;
          const uint8_t* __restrict h = high + 16 * sixteen;
          const float scale = ds[2 * quarter + sixteen];
          const int low_shift = quarter < 2 ? 0 : 4, high_shift = 2 * quarter;
          float* __restrict out = dst + 128 * half + 32 * quarter + 16 * sixteen;
          for (int j = 0; j < 16; ++j)
            out[j] = scale * float((int(l[j] >> low_shift & 15) | (int(h[j] >> high_shift) & 3) << 4) - 32);
        }
    }
  }
}

bool decode(DType dtype, const uint8_t* src, float* dst, size_t n) {
  switch (dtype) {
    case DType::kF16: decode_f16(src, dst, n); return true;
    case DType::kBF16: decode_bf16(src, dst, n); return true;
    case DType::kQ4_0: decode_q4_0(src, dst, n); return true;
    case DType::kQ4_1: decode_q4_1(src, dst, n); return true;
    case DType::kQ5_0: decode_q5_0(src, dst, n); return true;
    case DType::kQ5_1: decode_q5_1(src, dst, n); return true;
    case DType::kQ8_0: decode_q8_0(src, dst, n); return true;
    case DType::kQ4_K: decode_q4_k(src, dst, n); return true;
    case DType::kQ5_K: decode_q5_k(src, dst, n); return true;
    case DType::kQ6_K: decode_q6_k(src, dst, n); return true;
    default: return false;
  }
}

}  // namespace

extern const RowDecoders kDecoders;
const RowDecoders kDecoders = {decode, half_to_float};

}  // namespace sj::SJ_ISA
