// Random weights in the shapes of a real model: as a GGUF file, or piece by piece for weights that never touch a disk.
// In: a ShapeFile. Out: a file that describe_model, the Tokenizer and other engines accept. Called by synth, bench --shape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "models/gguf_file.h"
#include "models/shape_file.h"

namespace sj {

struct SynthOptions {
  std::string path;           ///< of the file to write; an existing one is replaced when the new one is complete
  uint32_t n_layers = 0;      ///< 0: as the shape says
  uint64_t seed = 0;          ///< same seed, same bytes, whatever n_threads is
  uint32_t n_threads = 0;     ///< 0: one a core
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> progress = {};   ///< called from one thread at a time
};

/// Writes the model's file through a temporary one beside it. Throws kUsage (sizes of the shape), kIo (not enough room,
/// naming needed and free bytes; a failed write). Returns the file's size in bytes.
uint64_t write_synthetic_gguf(const ShapeFile& shape, const SynthOptions& options);

/// The same model without data: metadata and tensor table are there, `has_data()` is false and bytes() throws. The weights
/// come from synthesise_tensor(tensor, seed, ...). Uses n_layers and seed of `options`.
GgufFile synthetic_gguf(const ShapeFile& shape, const SynthOptions& options);

/// Bytes of rows [first_row, first_row + n) of a tensor of a synthetic model, n = out.size() / bytes of a row; equal to
/// what write_synthetic_gguf writes there, whatever the slicing. Matrices have zero mean and standard deviation
/// 1/sqrt(row_elems), so that activations keep their scale, or a few times that in roles that decide (embedding, head, q, k,
/// router): logits have standard deviation 4. Norms are near 1, biases near 0. Thread-safe.
/// Throws kInternal when `out` is no whole number of the tensor's rows.
void synthesise_tensor(const TensorInfo& tensor, uint64_t seed, uint64_t first_row, std::span<std::byte> out);

}  // namespace sj
