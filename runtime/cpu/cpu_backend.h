// The op graph interpreted on the CPU with all cores: runs anywhere, and is the oracle of the CUDA backend.
// In: an open file and its description, then token ids. Out: logits. Called by the session and by tests.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "models/tokenizer.h"

namespace sj {

enum class CpuKvType {
  kF16,    ///< rounded to half, as on the GPU
  kQ8_0,   ///< rounded to q8_0's values, as on the GPU; kept as halves
  kExact,  ///< in the precision of the computation
};

struct CpuOptions {
  uint32_t n_threads = 0;         ///< 0: all cores
  uint32_t max_ctx_tokens = 0;    ///< 0: min(trained context, 4096)
  uint32_t block_tokens = 256;    ///< most tokens a step: a weight row is decoded once for that many tokens
  bool use_double = false;        ///< float64 arithmetic, and KV cache only with kExact; slow, for tests
  CpuKvType kv_type = CpuKvType::kF16;
};

/// One sequence. Results do not depend on the number of threads, nor on how the tokens are split into feeds and blocks.
/// Not thread-safe.
class CpuBackend {
 public:
  /// `file` must outlive the backend: weights are read from its mapping. Throws kUsage when the context does not fit the
  /// options, kUnsupported for what the interpreter can't compute.
  CpuBackend(const GgufFile& file, const ModelDesc& model, const CpuOptions& options);
  CpuBackend(CpuBackend&&) noexcept;
  CpuBackend& operator=(CpuBackend&&) noexcept;
  ~CpuBackend();

  /// Forgets all tokens.
  void reset();
  /// Appends `tokens`; returns logits [n, n_vocab] when `all_logits`, else [n_vocab] of the last token.
  /// Throws kUsage when there are none, when they don't fit the context, or when an id is out of range; nothing is
  /// appended then.
  std::vector<float> feed(std::span<const TokenId> tokens, bool all_logits);

  uint32_t n_past() const;           ///< tokens in the KV cache
  uint32_t max_ctx_tokens() const;
  uint32_t n_threads() const;
  const ModelDesc& model() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sj
