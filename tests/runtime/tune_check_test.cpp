// When two outputs count as the same: rounding passes, anything else does not.
#include "runtime/tune_check.h"

#include <gtest/gtest.h>

#include "kernel_src/args/step_state.h"

#include <cmath>
#include <cstring>
#include <random>

namespace sj::tune_check_test {
namespace {

constexpr uint32_t kDim = 256, kChunks = kDim / 32;
using Bytes = std::vector<std::byte>;

std::vector<float> normal_values(size_t n, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, 3);
  std::vector<float> values(n);
  for (float& v : values) v = draw(random);
  return values;
}

Bytes bytes_of(const std::vector<float>& values) {
  Bytes bytes(4 * values.size());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

/// As the decode stages write it: device/weight_dot.cuh.
Bytes quant_vec(const std::vector<float>& values, bool is_normed = false) {
  const size_t n_chunks = values.size() / 32;
  Bytes bytes(is_normed ? (56 * n_chunks + 15) / 16 * 16 : 48 * n_chunks);
  for (size_t group = 0; group < 2 * n_chunks; ++group) {
    const size_t chunk = group / 2, half = group % 2;
    float largest = 0, squares = 0;
    for (size_t i = 0; i < 16; ++i) largest = std::max(largest, std::abs(values[16 * group + i]));
    const float d = largest / 127;
    int sum = 0;
    for (size_t i = 0; i < 16; ++i) {
      const int a = static_cast<int>(std::lround(values[16 * group + i] / d));
      sum += a, squares += values[16 * group + i] * values[16 * group + i];
      bytes[16 * (half * n_chunks + chunk) + i] = static_cast<std::byte>(static_cast<int8_t>(a));
    }
    const float meta[2] = {d, d * static_cast<float>(sum)};
    std::memcpy(bytes.data() + 32 * n_chunks + 16 * chunk + 8 * half, meta, 8);
    if (is_normed) std::memcpy(bytes.data() + 48 * n_chunks + 4 * group, &squares, 4);
  }
  return bytes;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(CompareValues, FloatsMayDifferByTheOrderOfSums) {
  const std::vector<float> expected = normal_values(kDim);
  std::vector<float> found = expected;
  for (size_t i = 0; i < kDim; ++i) found[i] *= 1 + 1e-5f * static_cast<float>(i % 3);
  EXPECT_EQ(compare_values(ValueForm::kF32, bytes_of(expected), bytes_of(found)), "");
  found = expected;
  found[17] *= 1.01f;
  EXPECT_TRUE(has(compare_values(ValueForm::kF32, bytes_of(expected), bytes_of(found)), "value 17 is")) << "one value";
  found = expected;
  for (float& v : found) v *= 1.00008f;
  EXPECT_TRUE(has(compare_values(ValueForm::kF32, bytes_of(expected), bytes_of(found)), "on average")) << "all a little";
  found = expected;
  found[200] = NAN;
  EXPECT_TRUE(has(compare_values(ValueForm::kF32, bytes_of(expected), bytes_of(found)), "value 200 is nan"));
  EXPECT_TRUE(has(compare_values(ValueForm::kF32, bytes_of(found), bytes_of(found)), "nothing to compare with")) << "a NaN of the default";
}

TEST(CompareValues, ZerosMustStayZero) {
  const std::vector<float> zeros(kDim, 0.0f);
  std::vector<float> found = zeros;
  EXPECT_EQ(compare_values(ValueForm::kF32, bytes_of(zeros), bytes_of(found)), "");
  found[3] = 1e-9f;
  EXPECT_NE(compare_values(ValueForm::kF32, bytes_of(zeros), bytes_of(found)), "");
}

TEST(CompareValues, QuantsMayFallToTheOtherSideOfARounding) {
  const std::vector<float> expected = normal_values(kDim);
  std::vector<float> found = expected;
  for (size_t i = 0; i < kDim; ++i) found[i] *= 1 + 1e-5f * static_cast<float>(i % 3);
  for (const ValueForm form : {ValueForm::kQuantVec, ValueForm::kNormedVec}) {
    const bool is_normed = form == ValueForm::kNormedVec;
    EXPECT_EQ(compare_values(form, quant_vec(expected, is_normed), quant_vec(found, is_normed)), "");
  }
  Bytes flipped = quant_vec(expected);
  flipped[5] = static_cast<std::byte>(static_cast<int8_t>(flipped[5]) + 1);
  EXPECT_TRUE(has(compare_values(ValueForm::kQuantVec, quant_vec(expected), flipped), "add up")) << "the sum no longer fits";
  std::vector<float> wrong = expected;
  wrong[40] = -wrong[40] + 1;
  EXPECT_NE(compare_values(ValueForm::kQuantVec, quant_vec(expected), quant_vec(wrong)), "");
  wrong = expected;
  for (float& v : wrong) v *= 1.001f;   // the bytes are the same, the scales are not
  EXPECT_TRUE(has(compare_values(ValueForm::kQuantVec, quant_vec(expected), quant_vec(wrong)), "largest of groups: off by 0.001"));
  wrong = expected;
  for (size_t i = 0; i < kDim; i += 2) wrong[i] += 0.6f * std::abs(wrong[i / 16 * 16]) / 127;   // half a step, less than any single one may have
  EXPECT_NE(compare_values(ValueForm::kQuantVec, quant_vec(expected), quant_vec(wrong)), "") << "too many small ones";
}

TEST(CompareValues, SumsOfSquaresArePartOfANormedVec) {
  const Bytes expected = quant_vec(normal_values(kDim), true);
  Bytes found = expected;
  float sum = 0;
  std::memcpy(&sum, found.data() + 48 * kChunks + 4 * 7, 4);
  sum *= 1.1f;
  std::memcpy(found.data() + 48 * kChunks + 4 * 7, &sum, 4);
  EXPECT_TRUE(has(compare_values(ValueForm::kNormedVec, expected, found), "sums of squares: value 7"));
}

TEST(CompareValues, IntegersAreExactAndScratchIsNot) {
  const Bytes expected(16, std::byte{1});
  Bytes found = expected;
  found[9] = std::byte{2};
  EXPECT_NE(compare_values(ValueForm::kI32, expected, found), "");
  EXPECT_EQ(compare_values(ValueForm::kI32, expected, expected), "");
  EXPECT_EQ(compare_values(ValueForm::kOpaque, expected, found), "");
}

TEST(CompareKv, HalvesMayDifferInTheLastBit) {
  const std::vector<uint16_t> expected = {0x3c00, 0xbc01, 0x4200, 0x3800};   // 1, -1.001, 3, 0.5
  const auto bytes = [](const std::vector<uint16_t>& halves) {
    Bytes all(2 * halves.size());
    std::memcpy(all.data(), halves.data(), all.size());
    return all;
  };
  std::vector<uint16_t> found = expected;
  found[1] += 1;
  EXPECT_EQ(compare_kv(false, bytes(expected), bytes(found)), "");
  found[1] += 9;
  EXPECT_TRUE(has(compare_kv(false, bytes(expected), bytes(found)), "value 1 is -1.01"));
  found = expected;
  found[2] = 0x7e00;
  EXPECT_TRUE(has(compare_kv(false, bytes(expected), bytes(found)), "nan"));
}

TEST(CompareSampled, TheTokenMayBeAnotherOneOfTheSameLogit) {
  std::vector<float> logits = normal_values(100);
  logits[7] = 20, logits[8] = 19.9995f, logits[9] = 19;
  const auto state = [](int32_t token, int32_t position = 5) {
    const StepState s{.position = position, .n_tokens = 1, .token = token, .step_idx = 2};
    Bytes bytes(sizeof s);
    std::memcpy(bytes.data(), &s, sizeof s);
    return bytes;
  };
  EXPECT_EQ(compare_sampled(state(7), state(7), bytes_of(logits)), "");
  EXPECT_EQ(compare_sampled(state(7), state(8), bytes_of(logits)), "");
  EXPECT_TRUE(has(compare_sampled(state(7), state(9), bytes_of(logits)), "token 9 with logit 19, expected 7 with 20"));
  EXPECT_TRUE(has(compare_sampled(state(7), state(-3), bytes_of(logits)), "token -3 of 100"));
  EXPECT_TRUE(has(compare_sampled(state(7), state(7, 6), bytes_of(logits)), "position 6"));
}

}  // namespace
}  // namespace sj::tune_check_test
