// Reference dequantisation of every tensor type that sparkjit reads, bit-exact with ggml (GGUF specification, tensor
// encodings). In: bytes of whole blocks in file order. Out: float32. Called by the CPU backend, tests and tools.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "jit/base/dtype.h"

namespace sj {

/// Writes `n_elems` floats; `bytes` must hold exactly n_elems / block_elems blocks of `dtype`.
/// Throws kUnsupported for integer and F64 types (metadata only, never weights), kInternal on a size mismatch.
void dequantise(DType dtype, std::span<const std::byte> bytes, float* out, uint64_t n_elems);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);    ///< round to nearest even
float bf16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);    ///< round to nearest even

}  // namespace sj
