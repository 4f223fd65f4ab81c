// Weights as the interpreter reads them: rows of a tensor in the mapped file, decoded a few at a time.
// In: GgufFile and WeightRef. Out: rows of float or double. Called by the CPU ops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "runtime/cpu/vector_kernels.h"

namespace sj {

/// The rows that a WeightRef names, in place.
struct WeightRows {
  const std::byte* base = nullptr;   ///< row 0 of expert 0
  uint64_t row_bytes = 0;
  uint64_t n_rows = 0, n_cols = 0;   ///< of one expert
  uint64_t expert_bytes = 0;
  DType dtype = DType::kF32;

  const std::byte* row(uint64_t expert, uint64_t row_idx) const { return base + expert * expert_bytes + row_idx * row_bytes; }
};

/// Requires a WeightRef of this file, as describe_model makes them; throws kInternal when it reaches outside its tensor.
WeightRows weight_rows(const GgufFile& file, const WeightRef& ref);

/// All elements of a small weight (norm, bias, scale).
template <class T>
std::vector<T> read_weight(const GgufFile& file, const WeightRef& ref);

/// Rows [row_begin, row_begin + n_rows) of `expert` as [n_rows, n_cols], either decoded into `scratch` (which holds
/// n_rows * n_cols elements) or, for float32 rows read as float, where they lie.
template <class T>
const T* decode_rows(const RowDecoders& decoders, const WeightRows& weight, uint64_t expert, uint64_t row_begin,
                     uint64_t n_rows, T* scratch);

}  // namespace sj
