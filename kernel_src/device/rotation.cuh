// Sine and cosine of an angle given as a 64-bit fraction of a turn: exact range reduction at any position.
#pragma once

#include "device/types.cuh"

namespace sj {

struct Rotation {
  float cosine, sine;
};

/// `fraction`: the angle in units of 2^-64 turn. Absolute error of both results below 2^-22.
__device__ __forceinline__ Rotation rotation_of(uint64_t fraction) {
  // Nearest quarter turn, then the signed rest in [-1/8, 1/8) turn, from the upper 32 bits.
  const uint32_t turn = static_cast<uint32_t>(fraction >> 32);
  const uint32_t quarter = (turn + 0x20000000u) >> 30;
  const int32_t rest = static_cast<int32_t>(turn - (quarter << 30));
  const float a = static_cast<float>(rest) * 1.4629180792671596e-9f;  // 2 pi / 2^32: |a| <= pi / 4
  const float z = a * a;
  // Taylor series: the first dropped terms are a^11 / 11! < 2e-9 and a^12 / 12! < 2e-10.
  const float s = a * fmaf(z, fmaf(z, fmaf(z, fmaf(z, 1.0f / 362880, -1.0f / 5040), 1.0f / 120), -1.0f / 6), 1.0f);
  const float c =
      fmaf(z, fmaf(z, fmaf(z, fmaf(z, fmaf(z, -1.0f / 3628800, 1.0f / 40320), -1.0f / 720), 1.0f / 24), -0.5f), 1.0f);
  const float cosine = quarter & 1 ? s : c;
  const float sine = quarter & 1 ? c : s;
  return {(quarter + 1) & 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}

}  // namespace sj
