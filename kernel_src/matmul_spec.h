// Matrix product with quantised weights. In: MatmulParams (MatmulOp). Out: the spec of gemv.cu or gemm.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/base/dtype.h"
#include "jit/kernel_spec.h"

namespace sj {

enum class MatmulAlgorithm : uint32_t {
  kAuto,    ///< kGemv up to kMaxGemvTokens tokens, else kGemm
  kGemv,    ///< gemv.cu: a warp a row, weights dequantised in registers, f32
  kGemm,    ///< gemm.cu: tiles dequantised into shared memory
};

inline constexpr uint32_t kMaxGemvTokens = 8;

struct MatmulParams {
  DType dtype = DType::kF32;
  uint32_t n_rows = 0, n_cols = 0;
  uint32_t n_tokens = 1;           ///< of the plan; with more than 1, rows from StepState::n_tokens on are not computed
  bool has_bias = false, has_result_scale = false, has_residual = false;
  MatmulAlgorithm algorithm = MatmulAlgorithm::kAuto;
};

/// y[t,m] = result_scale * sum_k W[m,k] x[t,k] + bias[m] [+ residual[t,m]]; W as row records of any weight type.
/// Throws kUnsupported naming the broken rule.
KernelSpec matmul_spec(const MatmulParams& p);

}  // namespace sj
