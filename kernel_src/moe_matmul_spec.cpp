#include "kernel_src/moe_matmul_spec.h"

#include <algorithm>

#include "kernel_src/spec_rules.h"
#include "kernel_src/weight_layout.h"

namespace sj {

KernelSpec moe_matmul_spec(const MoeMatmulParams& p) {
  require_tokens("moe_matmul", p.n_tokens);
  require_rule(p.n_rows != 0, "moe_matmul: no rows");
  require_rule(p.n_experts != 0 && p.n_used != 0 && p.n_used <= p.n_experts,
               "moe_matmul: {} experts a token of {}", p.n_used, p.n_experts);
  require_rule(p.n_used <= kMaxGridYZ, "moe_matmul: {} experts a token exceed the grid", p.n_used);
  const uint32_t stride_rows = p.expert_stride_rows == 0 ? p.n_rows : p.expert_stride_rows;
  require_rule(stride_rows >= p.n_rows, "moe_matmul: experts of {} rows overlap at a stride of {}", p.n_rows, stride_rows);
  const uint64_t row_bytes = row_record_bytes(p.dtype, p.n_cols);
  constexpr uint32_t kWarps = 8;   // rows a block
  const double n_pairs = static_cast<double>(p.n_tokens) * p.n_used;
  const double n_matrices = std::min<double>(n_pairs, p.n_experts);   // all different, as far as there are enough
  const double n_vectors = p.is_x_per_slot ? n_pairs : p.n_tokens;
  return {.source = "moe_matmul.cu", .entry = "sj_moe_matmul",
          .baked  = {{"kDtype", static_cast<uint32_t>(p.dtype)}, {"kRows", p.n_rows}, {"kCols", p.n_cols},
                     {"kRowBytes", static_cast<int64_t>(row_bytes)}, {"kExperts", p.n_experts},
                     {"kExpertStrideRows", stride_rows}, {"kUsed", p.n_used}, {"kTokens", p.n_tokens},
                     {"kIsXPerSlot", p.is_x_per_slot}, {"kHasBias", p.has_bias}, {"kHasResultScale", p.has_result_scale},
                     {"kWarps", kWarps}},
          .launch = {.grid = {ceil_div(p.n_rows, kWarps), p.n_used, p.n_tokens}, .block = {32 * kWarps}},
          .cost   = {.bytes = n_matrices * p.n_rows * row_bytes + 4.0 * n_vectors * p.n_cols + 4.0 * n_pairs * p.n_rows +
                              (p.has_bias ? 4.0 * n_matrices * p.n_rows : 0),
                     .flops = 2.0 * n_pairs * p.n_rows * p.n_cols}};
}

}  // namespace sj
