// Random keys and values are of ordinary size, signed, and the same for the same seed.
#include "runtime/kv_cache.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "jit/base/error.h"

namespace sj::kv_cache_test {
namespace {

TEST(RandomKv, HalvesAreOfOrdinarySizeAndBothSigns) {
  std::vector<std::byte> bytes(1 << 16);
  fill_random_kv(bytes, KvType::kF16, 64, 7);
  uint32_t n_negative = 0, n_seen[4] = {};
  for (size_t at = 0; at < bytes.size(); at += 2) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + at, sizeof bits);
    const uint32_t exponent = bits >> 10 & 31;   // biased by 15: 12 is 2^-3, 15 is 1
    ASSERT_GE(exponent, 12u);
    ASSERT_LE(exponent, 15u);
    ++n_seen[exponent - 12];
    n_negative += bits >> 15;
  }
  const uint32_t n = static_cast<uint32_t>(bytes.size() / 2);
  EXPECT_NEAR(n_negative, n / 2, n / 20);
  for (uint32_t count : n_seen) EXPECT_NEAR(count, n / 4, n / 20);
}

TEST(RandomKv, FloatsAreOfOrdinarySize) {
  std::vector<std::byte> bytes(1 << 14);
  fill_random_kv(bytes, KvType::kF32, 64, 7);
  for (size_t at = 0; at < bytes.size(); at += 4) {
    float value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    ASSERT_GE(std::fabs(value), 0.125f);
    ASSERT_LT(std::fabs(value), 2.0f);
  }
}

/// Reads a pool of q8_0 pages as device/kv_q8.cuh describes them.
TEST(RandomKv, Q8PagesHoldQuantsAndTheirScales) {
  constexpr uint32_t kDim = 96;
  std::vector<std::byte> bytes(3 * kv_page_bytes(KvType::kQ8_0, kDim));
  ASSERT_EQ(bytes.size(), 3u * 64 * (96 + 3 * 2));
  fill_random_kv(bytes, KvType::kQ8_0, kDim, 7);
  uint32_t n_negative = 0;
  for (size_t page = 0; page < 3; ++page) {
    const std::byte* begin = bytes.data() + page * 64 * (96 + 6);
    for (size_t i = 0; i < 64 * 96; ++i) {
      const int quant = static_cast<int8_t>(begin[i]);
      ASSERT_GE(std::abs(quant), 8);
      n_negative += quant < 0;
    }
    for (size_t i = 0; i < 64 * 3; ++i) {
      uint16_t scale;
      std::memcpy(&scale, begin + 64 * 96 + 2 * i, sizeof scale);
      ASSERT_EQ(scale, 0x2408) << "1032 * 2^-16 = 0.015747 = 2 / 127.005";
    }
  }
  EXPECT_NEAR(n_negative, 3 * 64 * 96 / 2, 500);
}

TEST(KvType, RowsOfQ8TakeAScaleForEvery32Dims) {
  EXPECT_EQ(kv_row_bytes(KvType::kF16, 128), 256u);
  EXPECT_EQ(kv_row_bytes(KvType::kF32, 128), 512u);
  EXPECT_EQ(kv_row_bytes(KvType::kQ8_0, 128), 136u);
  AttentionDesc attention;
  attention.n_head_kv = 3, attention.head_dim = 64;
  EXPECT_EQ(kv_pool_bytes(attention, 65, KvType::kQ8_0), 2u * 64 * 3 * 68);
}

TEST(KvType, FollowsTheOptionsAndRefusesContradictions) {
  SessionOptions options;
  EXPECT_EQ(kv_type_of(options), KvType::kF16);
  options.kv_type = "q8_0";
  EXPECT_EQ(kv_type_of(options), KvType::kQ8_0);
  const auto refusal = [&] {
    try {
      kv_type_of(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return std::string(error.message());
    }
    return std::string("nothing was thrown");
  };
  options.activations = ActivationMode::kF32;
  EXPECT_EQ(refusal(), "--kv-type q8_0 doesn't go with --f32, which keeps the KV cache in float32");
  options.kv_type = "f16";
  EXPECT_EQ(kv_type_of(options), KvType::kF32) << "f16 is what a session has that says nothing";
  options.kv_type = "q4_0";
  EXPECT_EQ(refusal(), "kv_type (--kv-type or SPARKJIT_KV_TYPE): expected f16 or q8_0, found 'q4_0'");
}

TEST(RandomKv, SeedDecides) {
  std::vector<std::byte> a(256), b(256), c(256);
  fill_random_kv(a, KvType::kF16, 64, 1);
  fill_random_kv(b, KvType::kF16, 64, 1);
  fill_random_kv(c, KvType::kF16, 64, 2);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

}  // namespace
}  // namespace sj::kv_cache_test
