#include "runtime/cpu/weight_rows.h"

#include <algorithm>
#include <span>
#include <type_traits>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/dequant.h"

namespace sj {
namespace {

void decode_to_float(const RowDecoders& decoders, const WeightRows& weight, const std::byte* src, uint64_t n_rows, float* out) {
  const uint64_t n = n_rows * weight.n_cols;
  if (decoders.decode(weight.dtype, reinterpret_cast<const uint8_t*>(src), out, n)) return;
  dequantise(weight.dtype, std::span(src, n_rows * weight.row_bytes), out, n);
}

}  // namespace

WeightRows weight_rows(const GgufFile& file, const WeightRef& ref) {
  const DTypeInfo& info = dtype_info(ref.dtype);
  const std::span<const std::byte> bytes = file.bytes(file.require_tensor(ref.tensor));
  WeightRows rows{.base = bytes.data(), .row_bytes = ref.n_cols / info.block_elems * info.block_bytes,
                  .n_rows = ref.n_rows, .n_cols = ref.n_cols, .dtype = ref.dtype};
  rows.expert_bytes = ref.expert_stride_rows * rows.row_bytes;
  const uint64_t end = (ref.n_experts - 1) * rows.expert_bytes + (ref.row_begin + ref.n_rows) * rows.row_bytes;
  if (ref.n_cols % info.block_elems != 0 || end > bytes.size())
    throw Error(ErrorKind::kInternal, fmt::format("tensor {}: rows {}..{} of {} elements lie outside its {} bytes", ref.tensor,
                                                  ref.row_begin, ref.row_begin + ref.n_rows, ref.n_cols, bytes.size()));
  rows.base += ref.row_begin * rows.row_bytes;
  return rows;
}

template <class T>
std::vector<T> read_weight(const GgufFile& file, const WeightRef& ref) {
  const WeightRows rows = weight_rows(file, ref);
  std::vector<float> values(ref.n_rows * ref.n_cols);
  dequantise(ref.dtype, std::span(rows.base, ref.n_rows * rows.row_bytes), values.data(), values.size());
  return {values.begin(), values.end()};
}

template <class T>
const T* decode_rows(const RowDecoders& decoders, const WeightRows& weight, uint64_t expert, uint64_t row_begin,
                     uint64_t n_rows, T* scratch) {
  const std::byte* src = weight.row(expert, row_begin);
  if constexpr (std::is_same_v<T, float>) {
    const bool is_aligned = reinterpret_cast<uintptr_t>(src) % alignof(float) == 0;
    if (weight.dtype == DType::kF32 && is_aligned) return reinterpret_cast<const float*>(src);
    decode_to_float(decoders, weight, src, n_rows, scratch);
  } else {
    std::vector<float> narrow(n_rows * weight.n_cols);
    decode_to_float(decoders, weight, src, n_rows, narrow.data());
    std::copy(narrow.begin(), narrow.end(), scratch);
  }
  return scratch;
}

template std::vector<float> read_weight(const GgufFile&, const WeightRef&);
template std::vector<double> read_weight(const GgufFile&, const WeightRef&);
template const float* decode_rows(const RowDecoders&, const WeightRows&, uint64_t, uint64_t, uint64_t, float*);
template const double* decode_rows(const RowDecoders&, const WeightRows&, uint64_t, uint64_t, uint64_t, double*);

}  // namespace sj
