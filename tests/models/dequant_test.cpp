#include "models/dequant.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "jit/base/error.h"

namespace sj::dequant_test {
namespace {

std::vector<float> dequantised(DType dtype, const std::vector<uint8_t>& bytes) {
  const DTypeInfo& info = dtype_info(dtype);
  std::vector<float> out(bytes.size() / info.block_bytes * info.block_elems);
  dequantise(dtype, std::as_bytes(std::span(bytes)), out.data(), out.size());
  return out;
}

/// One block of bytes (37 k + 11) mod 256 with the half-precision fields set to 0.0625 (d) and 0.125 (dmin, m).
struct GoldenBlock {
  DType dtype;
  int d_at, m_at;   ///< byte offset of the fields; -1: none
  std::array<double, 6> first;
  double middle, last, sum, weighted_sum;   ///< y[n/2], y[n-1], sum y[i], sum y[i] * (i + 1)
};

const GoldenBlock kGolden[] = {
    {DType::kQ4_0, 0, -1, {-0.1875, 0.125, 0.4375, -0.25, 0.0625, 0.375}, -0.1875, 0, -1.3125, -32.375},
    {DType::kQ4_1, 0, 2, {1.0625, 0.375, 0.6875, 1, 0.3125, 0.625}, 0.6875, 0.875, 19.3125, 314.9375},
    {DType::kQ5_0, 0, -1, {0.5625, -0.125, 0.1875, -0.5, 0.8125, -0.875}, 0.875, 0.0625, 0.9375, 7},
    {DType::kQ5_1, 0, 2, {1.3125, 1.625, 1.9375, 1.25, 1.5625, 0.875}, 1.3125, 0.4375, 35.5625, 559.8125},
    {DType::kQ8_0, 0, -1, {5.3125, 7.625, -6.0625, -3.75, -1.4375, 0.875}, -5.6875, -3, -11, -505},
    {DType::kQ2_K, 80, 82, {2.0625, 0, 0.6875, 1.375, 2.0625, 0}, 0.1875, 0, -28.8125, -6495.125},
    {DType::kQ3_K, 108, -1, {5.0625, -6.75, 1.6875, -3.375, 5.0625, -6.75}, 0.125, 2.625, 59.875, 11071.5625},
    {DType::kQ4_K, 0, 2, {14.9375, -6.375, 3.3125, 13, 22.6875, 1.375}, 25.3125, -0.25, 2610.5, 384106.5},
    {DType::kQ5_K, 0, 2, {45.9375, -6.375, 34.3125, 13, 53.6875, 1.375}, 64.3125, 3.5, 6471.5, 912519.5},
    {DType::kQ6_K, 208, -1, {-89.4375, 106, 36.4375, -33.125, -102.6875, 92.75}, -21.9375, -3.75, 288.25, 49026.25},
    {DType::kIQ4_NL, 0, -1, {-2.1875, 1.5625, 7.0625, -3.0625, 0.8125, 5.5625}, -2.1875, 0.0625, -16.0625, -432.4375},
    {DType::kIQ4_XS, 0, -1, {4.0625, -0.0625, -4.3125, 5.1875, 0.625, -3.3125}, -36.5625, -1, -687.8125, -130695.875},
    {DType::kMXFP4, -1, -1, {0, 3, -1, -6, 2, -0.5}, 1.5, 3, 12.5, 319},
    {DType::kNVFP4, -1, -1, {-3, 1, -0.25, -2, 0.75, 0}, -15, 2.75, -9.625, -442.1875},
};

class GoldenBlockTest : public testing::TestWithParam<GoldenBlock> {};

TEST_P(GoldenBlockTest, MatchesTheReferenceExactly) {
  const GoldenBlock& golden = GetParam();
  const DTypeInfo& info = dtype_info(golden.dtype);
  std::vector<uint8_t> block(info.block_bytes);
  for (size_t k = 0; k < block.size(); ++k) block[k] = static_cast<uint8_t>(37 * k + 11);
  const auto put_half = [&](int at, uint16_t bits) { if (at >= 0) std::memcpy(&block[at], &bits, 2); };
  put_half(golden.d_at, 0x2C00);
  put_half(golden.m_at, 0x3000);
  if (golden.dtype == DType::kMXFP4) block[0] = 127;
  if (golden.dtype == DType::kNVFP4) block[0] = 0x30, block[1] = 0x39, block[2] = 0x42, block[3] = 0x4B;

  const std::vector<float> y = dequantised(golden.dtype, block);
  for (size_t i = 0; i < golden.first.size(); ++i) EXPECT_EQ(y[i], golden.first[i]) << i;
  EXPECT_EQ(y[y.size() / 2], golden.middle);
  EXPECT_EQ(y.back(), golden.last);
  double sum = 0, weighted_sum = 0;   // exact: every value is a multiple of 1/16 or of 1/64 and small
  for (size_t i = 0; i < y.size(); ++i) {
    sum += y[i];
    weighted_sum += y[i] * static_cast<double>(i + 1);
  }
  EXPECT_EQ(sum, golden.sum);
  EXPECT_EQ(weighted_sum, golden.weighted_sum);
}

INSTANTIATE_TEST_SUITE_P(Types, GoldenBlockTest, testing::ValuesIn(kGolden),
                         [](const auto& info) { return std::string(dtype_name(info.param.dtype)); });

/// FNV-1a over the bits of what gguf 0.19.0 (Python) makes of 16,384 elements of random bytes, NaN taken as 7fc00000.
struct GoldenHash { DType dtype; uint64_t hash; };

const GoldenHash kHashes[] = {
    {DType::kF16, 0xcbd68395c442e325},    {DType::kBF16, 0xb82701c076dc2325},   {DType::kQ4_0, 0x9b801ef41b754b25},
    {DType::kQ4_1, 0x766e0d2dbb731a5c},   {DType::kQ5_0, 0xd58d9fec168fcf25},   {DType::kQ5_1, 0x0054674326ad23df},
    {DType::kQ8_0, 0x0693c085dbd2ef65},   {DType::kQ2_K, 0x717acc42dce22b22},   {DType::kQ3_K, 0xcf57ffca56635765},
    {DType::kQ4_K, 0xdcf44ef97c965f7a},   {DType::kQ5_K, 0xe608cc43ba285559},   {DType::kQ6_K, 0x833f7fddb9f47fc7},
    {DType::kIQ4_NL, 0x5d6e45a9a5f46ee5}, {DType::kIQ4_XS, 0xb5985cb8dbd9e539}, {DType::kMXFP4, 0x220ab33353072325},
    {DType::kNVFP4, 0xe9b56d4536332325},
};

class RandomBlocksTest : public testing::TestWithParam<GoldenHash> {};

TEST_P(RandomBlocksTest, MatchTheGgufPackageBitForBit) {
  const DTypeInfo& info = dtype_info(GetParam().dtype);
  std::vector<uint8_t> bytes(uint64_t{info.block_bytes} * (16384 / info.block_elems));
  uint64_t state = static_cast<uint32_t>(info.dtype);
  for (uint8_t& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<uint8_t>(state >> 56);
  }
  uint64_t hash = 0xcbf29ce484222325;
  for (const float y : dequantised(info.dtype, bytes)) {
    const uint32_t bits = std::isnan(y) ? 0x7FC00000 : std::bit_cast<uint32_t>(y);
    hash = (hash ^ bits) * 0x100000001b3;
  }
  EXPECT_EQ(hash, GetParam().hash);
}

INSTANTIATE_TEST_SUITE_P(Types, RandomBlocksTest, testing::ValuesIn(kHashes),
                         [](const auto& info) { return std::string(dtype_name(info.param.dtype)); });

TEST(Dequantise, CopiesF32) {
  const std::vector<float> values = {1.5f, -0.0f, 3e-40f, 7e30f};
  std::vector<float> out(4);
  dequantise(DType::kF32, std::as_bytes(std::span(values)), out.data(), 4);
  EXPECT_EQ(std::memcmp(out.data(), values.data(), 16), 0);
}

TEST(Dequantise, RefusesIntegersAndF64) {
  const std::vector<uint8_t> bytes(64);
  std::vector<float> out(64);
  for (const DType dtype : {DType::kI8, DType::kI16, DType::kI32, DType::kI64, DType::kF64}) {
    try {
      dequantise(dtype, std::as_bytes(std::span(bytes)), out.data(), 64 / dtype_info(dtype).block_bytes);
      ADD_FAILURE() << dtype_name(dtype);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_EQ(error.message(), "dequantise: " + std::string(dtype_name(dtype)) + " is no weight type");
    }
  }
}

TEST(Dequantise, RefusesSizesThatDisagree) {
  const std::vector<uint8_t> bytes(36);
  std::vector<float> out(64);
  const auto kind_of = [&](uint64_t n_elems, size_t n_bytes) {
    try {
      dequantise(DType::kQ4_0, std::as_bytes(std::span(bytes)).first(n_bytes), out.data(), n_elems);
    } catch (const Error& error) {
      return error.what() + std::string("|") + std::string(kind_name(error.kind()));
    }
    return std::string("accepted");
  };
  EXPECT_EQ(kind_of(64, 36), "accepted");
  EXPECT_EQ(kind_of(0, 0), "accepted");
  EXPECT_EQ(kind_of(32, 36), "dequantise: 32 elements of Q4_0 are not 36 bytes|internal");
  EXPECT_EQ(kind_of(33, 36), "dequantise: 33 elements of Q4_0 are not 36 bytes|internal");
  EXPECT_EQ(kind_of(64, 35), "dequantise: 64 elements of Q4_0 are not 35 bytes|internal");
}

double half_value(uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Half, WidensEveryBitPattern) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float got = half_to_float(static_cast<uint16_t>(bits));
    if ((bits & 0x7FFF) > 0x7C00) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else if ((bits & 0x7FFF) == 0x7C00) {
      EXPECT_EQ(got, (bits & 0x8000) != 0 ? -INFINITY : INFINITY);
    } else {
      ASSERT_EQ(got, half_value(bits)) << bits;
      ASSERT_EQ(std::signbit(got), (bits & 0x8000) != 0) << bits;
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  // Between neighbours a < b of the finite halves: the midpoint goes to the even one, anything nearer to its own side.
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const auto a = static_cast<float>(half_value(bits)), b = static_cast<float>(half_value(bits + 1));
    const float middle = a + (b - a) / 2;   // exact: one more bit than a half has
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(float_to_half(a), bits);
    ASSERT_EQ(float_to_half(middle), even) << bits;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), bits) << bits;
    ASSERT_EQ(float_to_half(std::nextafter(middle, INFINITY)), bits + 1) << bits;
    ASSERT_EQ(float_to_half(-middle), even | 0x8000) << bits;
  }
  EXPECT_EQ(float_to_half(65519.996f), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_half(-INFINITY), 0xFC00);
  EXPECT_EQ(float_to_half(1e-30f), 0);
  EXPECT_EQ(float_to_half(-0.0f), 0x8000);
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Bf16, WidensAndRoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7F7F; ++bits) {
    const float a = bf16_to_float(static_cast<uint16_t>(bits));
    ASSERT_EQ(std::bit_cast<uint32_t>(a), bits << 16);
    const auto middle = std::bit_cast<float>(bits << 16 | 0x8000);
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(float_to_bf16(a), bits);
    ASSERT_EQ(float_to_bf16(middle), even);
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(bits << 16 | 0x7FFF)), bits);
    ASSERT_EQ(float_to_bf16(-std::bit_cast<float>(bits << 16 | 0x8001)), (bits + 1) | 0x8000);
  }
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7F800001u)))));
}

}  // namespace
}  // namespace sj::dequant_test
