// Row records are read back here by the layout's description alone, and must give what the file's bytes dequantise to.
#include "kernel_src/weight_layout.h"

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "models/dequant.h"

namespace sj::weight_layout_test {
namespace {

constexpr std::array<DType, 14> kQuantised = {
    DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
    DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4, DType::kNVFP4};

constexpr std::array<int, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr std::array<int, 16> kE2m1 = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// A record with its planes by name, read entry by entry.
class Record {
 public:
  Record(DType dtype, uint64_t n_cols, const std::vector<std::byte>& bytes) : bytes_(bytes) {
    for (const WeightPlane& plane : row_planes(dtype, n_cols)) planes_[std::string(plane.name)] = plane;
  }

  const uint8_t* entry(const std::string& plane, uint64_t idx) const {
    const WeightPlane& p = planes_.at(plane);
    return reinterpret_cast<const uint8_t*>(bytes_.data()) + p.offset_bytes + idx * p.entry_bytes;
  }
  float half(const std::string& plane, uint64_t idx, int which = 0) const {
    uint16_t bits;
    std::memcpy(&bits, entry(plane, idx) + 2 * which, 2);
    return half_to_float(bits);
  }
  int qs4(uint64_t chunk, int w) const {
    const uint8_t byte = entry("qs4", chunk)[w % 16];
    return w < 16 ? byte & 15 : byte >> 4;
  }
  int qs8(uint64_t chunk, int w) const { return static_cast<int8_t>(entry(w < 16 ? "qs8.0" : "qs8.1", chunk)[w % 16]); }
  int qh1(uint64_t chunk, int w) const { return entry("qh1", chunk)[w % 4] >> (w / 4) & 1; }
  int qh2(uint64_t chunk, int w) const {
    const int group = w / 4;
    return entry("qh2", chunk)[4 * (group / 4) + w % 4] >> (2 * (group % 4)) & 3;
  }
  int s16(uint64_t chunk, int w) const { return static_cast<int8_t>(entry("s16", chunk)[w / 16]); }
  int header_scale(uint64_t chunk) const { return entry("hdrK", chunk / 8)[4 + chunk % 8] & 63; }
  int header_min(uint64_t chunk) const {
    const uint8_t* h = entry("hdrK", chunk / 8);
    const int c = static_cast<int>(chunk % 8);
    return (h[4 + c] >> 6) << 4 | (h[12 + c / 2] >> (4 * (c % 2)) & 15);
  }

 private:
  const std::vector<std::byte>& bytes_;
  std::map<std::string, WeightPlane> planes_;
};

float ue4m3(uint8_t x) {
  if (x == 0 || x == 0x7F) return 0;
  const int e = x >> 3 & 15, m = x & 7;
  return e == 0 ? std::ldexp(static_cast<float>(m), -9) : std::ldexp(1.0f + static_cast<float>(m) / 8.0f, e - 7);
}

/// Weight w of chunk c, in the order of operations of the GGUF specification.
float value(DType dtype, const Record& r, uint64_t c, int w) {
  const auto f = [](int q) { return static_cast<float>(q); };
  switch (dtype) {
    case DType::kQ4_0: return r.half("d", c) * f(r.qs4(c, w) - 8);
    case DType::kQ4_1: return r.half("dm", c) * f(r.qs4(c, w)) + r.half("dm", c, 1);
    case DType::kQ5_0: return r.half("d", c) * f((r.qs4(c, w) | r.qh1(c, w) << 4) - 16);
    case DType::kQ5_1: return r.half("dm", c) * f(r.qs4(c, w) | r.qh1(c, w) << 4) + r.half("dm", c, 1);
    case DType::kQ8_0: return r.half("d", c) * f(r.qs8(c, w));
    case DType::kIQ4_NL: return r.half("d", c) * f(kIq4[r.qs4(c, w)]);
    case DType::kMXFP4: return std::ldexp(1.0f, *r.entry("e", c) - 128) * f(kE2m1[r.qs4(c, w)]);
    case DType::kNVFP4: return 0.5f * ue4m3(r.entry("u2", c)[w / 16]) * f(kE2m1[r.qs4(c, w)]);
    case DType::kQ4_K: return r.half("hdrK", c / 8) * f(r.header_scale(c)) * f(r.qs4(c, w)) - r.half("hdrK", c / 8, 1) * f(r.header_min(c));
    case DType::kQ5_K:
      return r.half("hdrK", c / 8) * f(r.header_scale(c)) * f(r.qs4(c, w) | r.qh1(c, w) << 4) - r.half("hdrK", c / 8, 1) * f(r.header_min(c));
    case DType::kQ6_K: return r.half("dK", c / 8) * f(r.s16(c, w)) * f((r.qs4(c, w) | r.qh2(c, w) << 4) - 32);
    case DType::kQ3_K: return r.half("dK", c / 8) * f(r.s16(c, w)) * f(r.qh2(c, w) - (r.qh1(c, w) != 0 ? 0 : 4));
    case DType::kQ2_K: {
      const uint8_t sm = r.entry("sm16", c)[w / 16];
      return r.half("ddK", c / 8) * f(sm & 15) * f(r.qh2(c, w)) - r.half("ddK", c / 8, 1) * f(sm >> 4);
    }
    case DType::kIQ4_XS: return r.half("dK", c / 8) * f(r.s16(c, w)) * f(kIq4[r.qs4(c, w)]);
    default: ADD_FAILURE() << dtype_name(dtype); return 0;
  }
}

std::vector<std::byte> random_bytes(uint64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(n);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

class WeightLayoutTest : public testing::TestWithParam<DType> {};

TEST_P(WeightLayoutTest, RecordHoldsTheRowsValuesBitExactly) {
  const DTypeInfo& info = dtype_info(GetParam());
  for (const uint64_t n_blocks : {1, 3, 8, 19}) {
    const uint64_t n_cols = n_blocks * info.block_elems;
    std::vector<std::byte> row = random_bytes(n_blocks * info.block_bytes, static_cast<uint32_t>(n_blocks));
    std::vector<std::byte> record(row_record_bytes(info.dtype, n_cols), std::byte{0xAA});
    repack_row(info.dtype, n_cols, row, record);
    std::vector<float> expected(n_cols);
    dequantise(info.dtype, row, expected.data(), n_cols);
    const Record reader(info.dtype, n_cols, record);
    for (uint64_t i = 0; i < n_cols; ++i) {
      const float got = value(info.dtype, reader, i / 32, static_cast<int>(i % 32));
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isnan(got)) << i;
      } else {
        EXPECT_EQ(got, expected[i]) << info.name << " n_cols " << n_cols << " weight " << i;
      }
    }
  }
}

TEST_P(WeightLayoutTest, PlanesTileTheRecordAlignedAndThePaddingIsZero) {
  const DTypeInfo& info = dtype_info(GetParam());
  for (const uint64_t n_blocks : {1, 5, 16}) {
    const uint64_t n_cols = n_blocks * info.block_elems;
    uint64_t end = 0;
    for (const WeightPlane& plane : row_planes(info.dtype, n_cols)) {
      EXPECT_EQ(plane.offset_bytes, end) << plane.name;
      EXPECT_EQ(plane.offset_bytes % plane.entry_bytes, 0u) << plane.name;
      EXPECT_EQ(plane.n_bytes, n_cols / plane.entry_elems * plane.entry_bytes) << plane.name;
      end += plane.n_bytes;
    }
    const uint64_t record_bytes = row_record_bytes(info.dtype, n_cols);
    EXPECT_EQ(record_bytes, (end + 15) / 16 * 16);
    std::vector<std::byte> record(record_bytes, std::byte{0xAA});
    repack_row(info.dtype, n_cols, random_bytes(n_blocks * info.block_bytes, 7), record);
    for (uint64_t i = end; i < record_bytes; ++i) EXPECT_EQ(record[i], std::byte{0}) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, WeightLayoutTest, testing::ValuesIn(kQuantised),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(WeightLayout, KeepsFloatRowsAsTheyAre) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const uint64_t n_cols = 12, n_bytes = n_cols * dtype_info(dtype).block_bytes;
    const std::vector<std::byte> row = random_bytes(n_bytes, 3);
    std::vector<std::byte> record(row_record_bytes(dtype, n_cols), std::byte{0xAA});
    EXPECT_EQ(record.size(), (n_bytes + 15) / 16 * 16);
    repack_row(dtype, n_cols, row, record);
    EXPECT_EQ(std::memcmp(record.data(), row.data(), n_bytes), 0);
    for (uint64_t i = n_bytes; i < record.size(); ++i) EXPECT_EQ(record[i], std::byte{0});
  }
}

TEST(WeightLayout, RecordSizesAreThoseOfTheTable) {
  EXPECT_EQ(row_record_bytes(DType::kQ4_K, 2048), 2048u / 256 * 144);
  EXPECT_EQ(row_record_bytes(DType::kQ6_K, 768), (768u / 256 * 210 + 15) / 16 * 16);
  EXPECT_EQ(row_record_bytes(DType::kQ8_0, 576), (576u / 32 * 34 + 15) / 16 * 16);
  EXPECT_EQ(row_record_bytes(DType::kQ3_K, 256), (64u + 32 + 16 + 2 + 15) / 16 * 16);
}

template <class Call>
Error error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorKind::kInternal, "");
}

TEST(WeightLayout, RefusesRowsThatAreNoWholeBlocks) {
  const Error k_quant = error_of([] { row_record_bytes(DType::kQ4_K, 640); });
  EXPECT_EQ(k_quant.kind(), ErrorKind::kUnsupported);
  EXPECT_STREQ(k_quant.what(), "weight layout: expected Q4_K rows of a positive multiple of 256 elements, found 640");
  const Error f32 = error_of([] { row_record_bytes(DType::kF32, 6); });
  EXPECT_STREQ(f32.what(), "weight layout: expected F32 rows of a positive multiple of 4 elements, found 6");
  EXPECT_EQ(error_of([] { row_record_bytes(DType::kQ8_0, 0); }).kind(), ErrorKind::kUnsupported);
}

TEST(WeightLayout, RefusesTypesThatAreNoWeights) {
  const Error error = error_of([] { row_record_bytes(DType::kI32, 32); });
  EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  EXPECT_STREQ(error.what(), "weight layout: I32 is no weight type");
}

TEST(WeightLayout, RefusesSpansOfAnotherSize) {
  std::vector<std::byte> row(18), record(32);
  const Error error = error_of([&] { repack_row(DType::kQ4_0, 64, row, record); });
  EXPECT_EQ(error.kind(), ErrorKind::kInternal);
  EXPECT_STREQ(error.what(), "repack_row: Q4_0 row of 64 needs 36 bytes in and 48 out, given 18 and 32");
}

}  // namespace
}  // namespace sj::weight_layout_test
