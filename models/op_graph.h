// The ops of one step in execution order, with the shape of every value between them. No hardware.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model_desc.h"
#include "models/op.h"

namespace sj {

enum class ValueType { kF32, kI32 };

struct Value {
  std::string name;
  ValueType type = ValueType::kF32;
  std::vector<uint64_t> shape;   ///< slowest first; the first is n_tokens (or n_logit_rows)
  uint64_t n_elems() const;
};

struct GraphOptions {
  uint32_t n_tokens = 1;         ///< tokens a step
  uint32_t max_ctx_tokens = 0;   ///< size of the KV cache
  bool all_logits = false;       ///< false: logits of the last token only
};

struct OpGraph {
  GraphOptions options;
  std::vector<Value> values;
  std::vector<Op> ops;
  ValueId logits = kNoValue;     ///< [n_logit_rows, n_vocab]
};

/// Builds the step of `model`; ops are in execution order, each value has one producer.
OpGraph build_graph(const ModelDesc& model, const GraphOptions& options);
/// One line an op, for `inspect --stage graph` and golden dumps.
std::string dump(const OpGraph& graph);

}  // namespace sj
