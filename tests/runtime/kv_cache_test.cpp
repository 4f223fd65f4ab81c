// Random keys and values are of ordinary size, signed, and the same for the same seed.
#include "runtime/kv_cache.h"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

namespace sj {
namespace {

TEST(RandomKv, HalvesAreOfOrdinarySizeAndBothSigns) {
  std::vector<std::byte> bytes(1 << 16);
  fill_random_kv(bytes, false, 7);
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
  fill_random_kv(bytes, true, 7);
  for (size_t at = 0; at < bytes.size(); at += 4) {
    float value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    ASSERT_GE(std::fabs(value), 0.125f);
    ASSERT_LT(std::fabs(value), 2.0f);
  }
}

TEST(RandomKv, SeedDecides) {
  std::vector<std::byte> a(256), b(256), c(256);
  fill_random_kv(a, false, 1);
  fill_random_kv(b, false, 1);
  fill_random_kv(c, false, 2);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

}  // namespace
}  // namespace sj
