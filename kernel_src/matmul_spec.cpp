#include "kernel_src/matmul_spec.h"

#include "kernel_src/spec_rules.h"
#include "kernel_src/weight_layout.h"

namespace sj {

KernelSpec matmul_spec(const MatmulParams& p) {
  require_rule(p.n_rows != 0, "matmul: no rows");
  const uint64_t row_bytes = row_record_bytes(p.dtype, p.n_cols);
  const bool is_gemv = p.algorithm == MatmulAlgorithm::kGemv ||
                       (p.algorithm == MatmulAlgorithm::kAuto && p.n_tokens <= kMaxGemvTokens);
  require_tokens("matmul", p.n_tokens);
  require_rule(!is_gemv || p.n_tokens <= kMaxGemvTokens, "matmul: gemv takes up to {} tokens, found {}", kMaxGemvTokens,
               p.n_tokens);
  const double n_outputs = static_cast<double>(p.n_rows) * p.n_tokens;
  KernelSpec spec = {
      .source = is_gemv ? "gemv.cu" : "gemm.cu", .entry = is_gemv ? "sj_gemv" : "sj_gemm",
      .baked = {{"kDtype", static_cast<uint32_t>(p.dtype)}, {"kRows", p.n_rows}, {"kCols", p.n_cols},
                {"kRowBytes", static_cast<int64_t>(row_bytes)}, {"kTokens", p.n_tokens}, {"kHasBias", p.has_bias},
                {"kHasResultScale", p.has_result_scale}, {"kHasResidual", p.has_residual}},
      .cost = {.bytes = static_cast<double>(p.n_rows) * row_bytes + 4.0 * p.n_tokens * p.n_cols +
                        4.0 * n_outputs * (p.has_residual ? 2 : 1) + (p.has_bias ? 4.0 * p.n_rows : 0),
               .flops = 2.0 * n_outputs * p.n_cols}};
  if (is_gemv) {
    constexpr uint32_t kWarps = 8;   // rows a block
    spec.baked.push_back({"kWarps", kWarps});
    spec.launch = {.grid = {ceil_div(p.n_rows, kWarps)}, .block = {32 * kWarps}};
  } else {
    spec.launch = {.grid = {ceil_div(p.n_rows, 64), ceil_div(p.n_tokens, 64)}, .block = {128}};
  }
  return spec;
}

}  // namespace sj
