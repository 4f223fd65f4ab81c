#include "jit/kernel_spec.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/error_checks.h"

namespace sj::kernel_spec_test {
namespace {

KernelSpec spec_with(std::vector<Baked> baked) { return {.source = "x.cu", .entry = "sj_x", .baked = std::move(baked), .launch = {}, .cost = {}}; }

std::string line_of(Baked baked) {
  const std::string text = baked_header(spec_with({std::move(baked)}));
  const size_t begin = text.find("inline");
  return text.substr(begin, text.find('\n', begin) - begin);
}

TEST(BakedHeader, WrapsConstantsInTheirNamespace) {
  EXPECT_EQ(baked_header(spec_with({{"kRows", int64_t{4}}, {"kEps", 1e-5}, {"kFast", true}})),
            "#pragma once\nnamespace sj::baked {\n"
            "inline constexpr unsigned kRows = 4;\ninline constexpr float kEps = 1e-05f;\ninline constexpr bool kFast = true;\n}\n");
}

TEST(BakedHeader, IntegersGetTheTypeThatHoldsThem) {
  EXPECT_EQ(line_of({"k", int64_t{0}}), "inline constexpr unsigned k = 0;");
  EXPECT_EQ(line_of({"k", int64_t{4294967295}}), "inline constexpr unsigned k = 4294967295;");
  EXPECT_EQ(line_of({"k", int64_t{4294967296}}), "inline constexpr long long k = 4294967296;");
  EXPECT_EQ(line_of({"k", int64_t{-1}}), "inline constexpr int k = -1;");
  EXPECT_EQ(line_of({"k", int64_t{-2147483649}}), "inline constexpr long long k = -2147483649;");
  EXPECT_EQ(line_of({"k", std::numeric_limits<int64_t>::min()}), "inline constexpr long long k = -9223372036854775807LL - 1;");
}

TEST(BakedHeader, FloatsRoundTrip) {
  EXPECT_EQ(line_of({"k", 1.0}), "inline constexpr float k = 1.0f;");
  EXPECT_EQ(line_of({"k", 1e30}), "inline constexpr float k = 1e+30f;");
  EXPECT_EQ(line_of({"k", 0.1}), "inline constexpr float k = 0.1f;");
  EXPECT_EQ(line_of({"k", 0.1, "double"}), "inline constexpr double k = 0.1;");
  EXPECT_EQ(line_of({"k", -std::numeric_limits<double>::infinity()}), "inline constexpr float k = -__builtin_huge_valf();");
}

TEST(BakedHeader, TextIsWrittenWithItsType) {
  EXPECT_EQ(line_of({"kRows[2]", std::string("{1, 2}"), "int"}), "inline constexpr int kRows[2] = {1, 2};");
  EXPECT_TRUE(test::throws_error([] { line_of({"kRows[2]", std::string("{1, 2}")}); }, ErrorKind::kInternal, "kRows[2]", "type"));
}

TEST(BakedHeader, EveryValueChangesTheText) {
  const std::string base = baked_header(spec_with({{"kA", int64_t{1}}, {"kB", 2.0}}));
  EXPECT_NE(base, baked_header(spec_with({{"kA", int64_t{2}}, {"kB", 2.0}})));
  EXPECT_NE(base, baked_header(spec_with({{"kA", int64_t{1}}, {"kB", 2.0000002}})));
  EXPECT_NE(base, baked_header(spec_with({{"kA", int64_t{1}, "int"}, {"kB", 2.0}})));
}

TEST(KernelLabel, HasEntryAndScalars) {
  EXPECT_EQ(kernel_label(spec_with({{"kRows", int64_t{2048}}, {"kEps", 0.5}, {"kFast", true}, {"kTable[1]", std::string("{1}"), "int"}})),
            "x[kRows=2048,kEps=0.5,kFast=1]");
}

}  // namespace
}  // namespace sj::kernel_spec_test
