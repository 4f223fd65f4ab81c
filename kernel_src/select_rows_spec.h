// Row of the last valid token. In: SelectRowsParams (SelectRowsOp). Out: the spec of select_rows.cu. Called by lowering.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace sj {

struct SelectRowsParams {
  uint32_t n_cols = 0;             ///< a multiple of 4
  uint32_t n_tokens = 1;
};

/// y[0,:] = x[StepState::n_tokens - 1,:]. Only the op's last_only form: keeping all rows needs no kernel.
/// Throws kUnsupported naming the broken rule.
KernelSpec select_rows_spec(const SelectRowsParams& p);

}  // namespace sj
