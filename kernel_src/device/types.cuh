// Fixed-width integers for device text: NVRTC compiles without any header. Vector types (uint4, float4, ...), size_t and
// the math built-ins are part of the language there.
#pragma once

using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long;
using uint64_t = unsigned long;

namespace sj {

static_assert(sizeof(int64_t) == 8 && sizeof(void*) == 8, "device text assumes 64-bit long and pointers");

inline constexpr uint32_t kWarpLanes = 32;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;
inline constexpr float kInfinity = __builtin_bit_cast(float, 0x7F800000u);

/// ceil(a / b) and the least multiple of b that is >= a; for a + b < 2^32.
__device__ __forceinline__ constexpr uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
__device__ __forceinline__ constexpr uint32_t round_up(uint32_t a, uint32_t b) { return ceil_div(a, b) * b; }

__device__ __forceinline__ constexpr uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
__device__ __forceinline__ constexpr uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

}  // namespace sj
