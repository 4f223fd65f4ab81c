// One function a block type: `b` is a block in file order, `y` its block_elems floats. The products and sums are written
// in the order that ggml evaluates them; this file is compiled without floating-point contraction, so they are bit-exact.
// Inner loops run over 16 or 32 independent elements without branches, which the compiler vectorises.
#include "models/dequant.h"

#include <array>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

using Byte = uint8_t;

inline uint16_t load_u16(const Byte* from) {
  uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline uint32_t load_u32(const Byte* from) {
  uint32_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// Without branches, so that rows of halves vectorise; no step takes or makes a denormal float, which would be slow.
inline float widen_half(uint16_t bits) {
  constexpr uint32_t kRebias = (127 - 15) << 23;
  constexpr uint32_t kSmallest = kRebias + (1 << 23);       // 2^-14, the smallest normal half, as float bits
  const uint32_t magnitude = uint32_t{bits & 0x7FFFu} << 13;
  const uint32_t normal = magnitude + kRebias;
  const uint32_t special = magnitude + 2 * kRebias;         // exponent 31 becomes 255: infinity and NaN
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude + kSmallest) - std::bit_cast<float>(kSmallest));
  const uint32_t wide = magnitude < (1u << 23) ? subnormal : (magnitude >= (31u << 23) ? special : normal);
  return std::bit_cast<float>(wide | uint32_t{bits & 0x8000u} << 16);
}

inline float half_at(const Byte* from) { return widen_half(load_u16(from)); }

/// IQ4_NL, IQ4_XS: the 16 values a nibble stands for.
constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/// MXFP4, NVFP4: the E2M1 values, doubled.
constexpr std::array<int8_t, 16> kE2m1Doubled = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// ---- blocks of 32: low nibbles are elements 0..15, high nibbles 16..31 ----

void q4_0(const Byte* b, float* y) {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * static_cast<float>((b[2 + i] & 15) - 8);
    y[i + 16] = d * static_cast<float>((b[2 + i] >> 4) - 8);
  }
}

void q4_1(const Byte* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * static_cast<float>(b[4 + i] & 15) + m;
    y[i + 16] = d * static_cast<float>(b[4 + i] >> 4) + m;
  }
}

void q5_0(const Byte* b, float* y) {
  const float d = half_at(b);
  const uint32_t high = load_u32(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * static_cast<float>(static_cast<int>((b[6 + i] & 15u) | ((high >> i) & 1) << 4) - 16);
    y[i + 16] = d * static_cast<float>(static_cast<int>((b[6 + i] >> 4) | ((high >> (i + 16)) & 1) << 4) - 16);
  }
}

void q5_1(const Byte* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  const uint32_t high = load_u32(b + 4);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * static_cast<float>(static_cast<int>((b[8 + i] & 15u) | ((high >> i) & 1) << 4)) + m;
    y[i + 16] = d * static_cast<float>(static_cast<int>((b[8 + i] >> 4) | ((high >> (i + 16)) & 1) << 4)) + m;
  }
}

void q8_0(const Byte* b, float* y) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(static_cast<int8_t>(b[2 + i]));
}

void nibble_table(const Byte* b, float scale, const std::array<int8_t, 16>& table, float* y) {
  for (int i = 0; i < 16; ++i) {
    y[i] = scale * static_cast<float>(table[b[i] & 15]);
    y[i + 16] = scale * static_cast<float>(table[b[i] >> 4]);
  }
}

void iq4_nl(const Byte* b, float* y) { nibble_table(b + 2, half_at(b), kIq4Values, y); }

/// Half of the E8M0 scale 2^(e - 127), because the table is doubled; exponents 0 and 1 give denormals.
float e8m0_halved(Byte e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

void mxfp4(const Byte* b, float* y) { nibble_table(b + 1, e8m0_halved(b[0]), kE2m1Doubled, y); }

/// Half of the UE4M3 scale; the sign bit is unused and 0x7F, E4M3's NaN, counts as zero.
float ue4m3_halved(Byte x) {
  if (x == 0 || x == 0x7F) return 0;
  const int exponent = (x >> 3) & 15, mantissa = x & 7;
  // (8 + mantissa) * 2^(exponent - 10) for normal values, mantissa * 2^-9 for subnormal ones; both halved.
  const float power = std::bit_cast<float>(static_cast<uint32_t>((exponent == 0 ? -10 : exponent - 11) + 127) << 23);
  return power * static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa);
}

void nvfp4(const Byte* b, float* y) {
  for (int s = 0; s < 4; ++s) {
    const float scale = ue4m3_halved(b[s]);
    for (int i = 0; i < 8; ++i) {
      y[16 * s + i] = scale * static_cast<float>(kE2m1Doubled[b[4 + 8 * s + i] & 15]);
      y[16 * s + 8 + i] = scale * static_cast<float>(kE2m1Doubled[b[4 + 8 * s + i] >> 4]);
    }
  }
}

// ---- blocks of 256 ----

void q2_k(const Byte* b, float* y) {
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int j = 0; j < 16; ++j) {   // groups of 16; their 2-bit fields lie 32 apart, four to a byte
    const float scale = d * static_cast<float>(b[j] & 15), min = dmin * static_cast<float>(b[j] >> 4);
    const Byte* q = b + 16 + 32 * (j / 8) + 16 * (j % 2);
    const int shift = 2 * ((j % 8) / 2);
    for (int i = 0; i < 16; ++i) y[16 * j + i] = scale * static_cast<float>((q[i] >> shift) & 3) - min;
  }
}

void q3_k(const Byte* b, float* y) {
  const float d = half_at(b + 108);
  const Byte* scales = b + 96;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
    const int high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const Byte* q = b + 32 + 32 * (j / 8) + 16 * (j % 2);
    const Byte* mask = b + 16 * (j % 2);
    const int shift = 2 * ((j % 8) / 2), bit = j / 2;
    for (int i = 0; i < 16; ++i)   // a set mask bit means: do not subtract 4
      y[16 * j + i] = scale * static_cast<float>(((q[i] >> shift) & 3) + 4 * ((mask[i] >> bit) & 1) - 4);
  }
}

struct ScaleMin { float scale, min; };

/// Q4_K, Q5_K: the scale and min of chunk j (32 elements) from the 12 packed bytes.
ScaleMin scale_min(const Byte* s, int j, float d, float dmin) {
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
  const int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  return {d * static_cast<float>(scale), dmin * static_cast<float>(min)};
}

void q4_k(const Byte* b, float* y) {
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int j = 0; j < 8; j += 2) {
    const ScaleMin low = scale_min(b + 4, j, d, dmin), high = scale_min(b + 4, j + 1, d, dmin);
    const Byte* q = b + 16 + 16 * j;
    for (int i = 0; i < 32; ++i) {
      y[32 * j + i] = low.scale * static_cast<float>(q[i] & 15) - low.min;
      y[32 * j + 32 + i] = high.scale * static_cast<float>(q[i] >> 4) - high.min;
    }
  }
}

void q5_k(const Byte* b, float* y) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const Byte* qh = b + 16;
  for (int j = 0; j < 8; j += 2) {
    const ScaleMin low = scale_min(b + 4, j, d, dmin), high = scale_min(b + 4, j + 1, d, dmin);
    const Byte* q = b + 48 + 16 * j;
    for (int i = 0; i < 32; ++i) {
      y[32 * j + i] = low.scale * static_cast<float>((q[i] & 15) | ((qh[i] >> j) & 1) << 4) - low.min;
      y[32 * j + 32 + i] = high.scale * static_cast<float>((q[i] >> 4) | ((qh[i] >> (j + 1)) & 1) << 4) - high.min;
    }
  }
}

void q6_k(const Byte* b, float* y) {
  const float d = half_at(b + 208);
  for (int n = 0; n < 2; ++n) {
    const Byte* low = b + 64 * n;
    const Byte* high = b + 128 + 32 * n;
    for (int h = 0; h < 2; ++h) {   // half of each group of 32: it has a scale of its own
      std::array<float, 4> scale;
      for (int g = 0; g < 4; ++g) scale[g] = d * static_cast<float>(static_cast<int8_t>(b[192 + 8 * n + 2 * g + h]));
      float* out = y + 128 * n + 16 * h;
      for (int i = 0; i < 16; ++i) {
        const int a = low[16 * h + i], c = low[32 + 16 * h + i], t = high[16 * h + i];
        out[i] = scale[0] * static_cast<float>(((a & 15) | (t & 3) << 4) - 32);
        out[i + 32] = scale[1] * static_cast<float>(((c & 15) | ((t >> 2) & 3) << 4) - 32);
        out[i + 64] = scale[2] * static_cast<float>((a >> 4 | ((t >> 4) & 3) << 4) - 32);
        out[i + 96] = scale[3] * static_cast<float>((c >> 4 | (t >> 6) << 4) - 32);
      }
    }
  }
}

void iq4_xs(const Byte* b, float* y) {
  const float d = half_at(b);
  const uint32_t high = load_u16(b + 2);
  for (int j = 0; j < 8; ++j) {
    const int scale = ((b[4 + j / 2] >> (4 * (j & 1))) & 15) | static_cast<int>((high >> (2 * j)) & 3) << 4;
    nibble_table(b + 8 + 16 * j, d * static_cast<float>(scale - 32), kIq4Values, y + 32 * j);
  }
}

template <int kElems, int kBytes, void (*kBlock)(const Byte*, float*)>
void each_block(const Byte* b, float* y, uint64_t n_elems) {
  for (uint64_t i = 0; i < n_elems / kElems; ++i) kBlock(b + i * kBytes, y + i * kElems);
}

void halves(const Byte* b, float* y, uint64_t n_elems) {
  for (uint64_t i = 0; i < n_elems; ++i) y[i] = widen_half(load_u16(b + 2 * i));
}

void bf16s(const Byte* b, float* y, uint64_t n_elems) {
  for (uint64_t i = 0; i < n_elems; ++i) y[i] = std::bit_cast<float>(uint32_t{load_u16(b + 2 * i)} << 16);
}

}  // namespace

void dequantise(DType dtype, std::span<const std::byte> bytes, float* out, uint64_t n_elems) {
  const DTypeInfo& info = dtype_info(dtype);
  if (n_elems % info.block_elems != 0 || bytes.size() % info.block_bytes != 0 ||
      bytes.size() / info.block_bytes != n_elems / info.block_elems)
    throw Error(ErrorKind::kInternal, fmt::format("dequantise: {} elements of {} are not {} bytes", n_elems, info.name, bytes.size()));
  const auto* b = reinterpret_cast<const Byte*>(bytes.data());
  switch (dtype) {
    case DType::kF32: if (n_elems != 0) std::memcpy(out, b, bytes.size()); return;
    case DType::kF16: return halves(b, out, n_elems);
    case DType::kBF16: return bf16s(b, out, n_elems);
    case DType::kQ4_0: return each_block<32, 18, q4_0>(b, out, n_elems);
    case DType::kQ4_1: return each_block<32, 20, q4_1>(b, out, n_elems);
    case DType::kQ5_0: return each_block<32, 22, q5_0>(b, out, n_elems);
    case DType::kQ5_1: return each_block<32, 24, q5_1>(b, out, n_elems);
    case DType::kQ8_0: return each_block<32, 34, q8_0>(b, out, n_elems);
    case DType::kQ2_K: return each_block<256, 84, q2_k>(b, out, n_elems);
    case DType::kQ3_K: return each_block<256, 110, q3_k>(b, out, n_elems);
    case DType::kQ4_K: return each_block<256, 144, q4_k>(b, out, n_elems);
    case DType::kQ5_K: return each_block<256, 176, q5_k>(b, out, n_elems);
    case DType::kQ6_K: return each_block<256, 210, q6_k>(b, out, n_elems);
    case DType::kIQ4_NL: return each_block<32, 18, iq4_nl>(b, out, n_elems);
    case DType::kIQ4_XS: return each_block<256, 136, iq4_xs>(b, out, n_elems);
    case DType::kMXFP4: return each_block<32, 17, mxfp4>(b, out, n_elems);
    case DType::kNVFP4: return each_block<64, 36, nvfp4>(b, out, n_elems);
    case DType::kI8: case DType::kI16: case DType::kI32: case DType::kI64: case DType::kF64: break;
  }
  throw Error(ErrorKind::kUnsupported, fmt::format("dequantise: {} is no weight type", info.name));
}

float half_to_float(uint16_t bits) { return widen_half(bits); }

uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00 | static_cast<uint16_t>(magnitude >> 13 & 0x1FF);   // NaN stays NaN
  if (magnitude >= 0x477FF000) return sign | 0x7C00;   // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14: adding 0.5 puts the last bit of a subnormal half (2^-24) into the last bit of the sum, rounding to even.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(sum) - 0x3F000000);
  }
  const uint32_t is_odd = magnitude >> 13 & 1;
  return sign | static_cast<uint16_t>((magnitude - ((127u - 15u) << 23) + 0xFFF + is_odd) >> 13);
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);   // NaN, made quiet
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace sj
