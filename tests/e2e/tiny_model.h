// A llama of a few kilobytes with a vocabulary of bytes: enough to drive every verb, small enough to break in many ways.
#pragma once

#include <string>

#include "models/gguf_writer.h"

namespace sj::test {

struct TinyModelOptions {
  std::string architecture = "llama";
  bool has_vocab = true;
  uint32_t ctx_tokens = 64;
  uint32_t d_model = 32;
  uint32_t n_head = 2;                    ///< of one KV head; heads are 32 / n_head wide
  std::string left_out_tensor;            ///< not in the file
  std::string misshaped_tensor;           ///< one row too many
  std::string wrong_type_tensor;          ///< int32 instead of float
  uint32_t n_extra_keys = 0;
};

/// 3 special and 256 byte tokens, 2 layers, float32 weights that are the same on every machine.
std::string tiny_model_bytes(const TinyModelOptions& options = {});

}  // namespace sj::test
