#include "jit/base/dtype.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace sj {
namespace {

constexpr std::array<DTypeInfo, 22> kTable = {{
    {DType::kF32, "F32", 1, 4},         {DType::kF16, "F16", 1, 2},         {DType::kQ4_0, "Q4_0", 32, 18},
    {DType::kQ4_1, "Q4_1", 32, 20},     {DType::kQ5_0, "Q5_0", 32, 22},     {DType::kQ5_1, "Q5_1", 32, 24},
    {DType::kQ8_0, "Q8_0", 32, 34},     {DType::kQ2_K, "Q2_K", 256, 84},    {DType::kQ3_K, "Q3_K", 256, 110},
    {DType::kQ4_K, "Q4_K", 256, 144},   {DType::kQ5_K, "Q5_K", 256, 176},   {DType::kQ6_K, "Q6_K", 256, 210},
    {DType::kIQ4_NL, "IQ4_NL", 32, 18}, {DType::kIQ4_XS, "IQ4_XS", 256, 136}, {DType::kI8, "I8", 1, 1},
    {DType::kI16, "I16", 1, 2},         {DType::kI32, "I32", 1, 4},         {DType::kI64, "I64", 1, 8},
    {DType::kF64, "F64", 1, 8},         {DType::kBF16, "BF16", 1, 2},       {DType::kMXFP4, "MXFP4", 32, 17},
    {DType::kNVFP4, "NVFP4", 64, 36},
}};

}  // namespace

std::optional<DTypeInfo> find_dtype(uint32_t ggml_type_id) {
  for (const DTypeInfo& row : kTable)
    if (static_cast<uint32_t>(row.dtype) == ggml_type_id) return row;
  return std::nullopt;
}

const DTypeInfo& dtype_info(DType dtype) {
  return *std::find_if(kTable.begin(), kTable.end(), [&](const DTypeInfo& row) { return row.dtype == dtype; });
}

std::optional<DType> find_dtype_by_name(std::string_view name) {
  const auto same = [](char a, char b) { return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b)); };
  for (const DTypeInfo& row : kTable)
    if (std::equal(row.name.begin(), row.name.end(), name.begin(), name.end(), same)) return row.dtype;
  return std::nullopt;
}

}  // namespace sj
