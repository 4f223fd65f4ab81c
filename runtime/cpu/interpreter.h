// Runs the ops of a graph one after the other, in float or double. In: token ids and their position. Out: logits.
// Called by CpuBackend.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "models/gguf_file.h"
#include "models/op_graph.h"
#include "models/tokenizer.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/thread_pool.h"

namespace sj {

enum class LogitRows { kNone, kLast, kAll };

class Interpreter {
 public:
  virtual ~Interpreter() = default;
  /// Runs `tokens` at positions first_position, ... after all earlier ones; writes `logits` [rows, n_vocab] as `which` asks.
  virtual void run_step(std::span<const TokenId> tokens, uint32_t first_position, LogitRows which, float* logits) = 0;
};

/// `file`, `model` and `pool` must outlive the interpreter.
std::unique_ptr<Interpreter> make_interpreter(const GgufFile& file, const ModelDesc& model, ThreadPool& pool,
                                              const CpuOptions& options);

}  // namespace sj
