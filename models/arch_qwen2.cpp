// Qwen2 and Qwen2.5: pre-norm, half-split RoPE, biases on Q, K and V, SwiGLU.
#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/blocks.h"
#include "models/registry.h"

namespace sj {

ModelDesc describe_qwen2(const GgufFile& file) {
  DescReader reader(file);
  const CommonParams p = read_common(reader);
  if (uint64_t{p.head_dim} * p.n_head[0] != p.d_model || p.n_rot != p.head_dim)
    throw Error(ErrorKind::kUnsupported,
                fmt::format("qwen2: expected {} heads of {} rotated dims to make up embedding_length {}, found head size {} "
                            "with {} rotated dims",
                            p.n_head[0], p.d_model / p.n_head[0], p.d_model, p.head_dim, p.n_rot));
  const RopeDesc rope = make_rope(RopePairing::kHalfSplit, p.n_rot, p.rope_base, read_rope_scaling(reader, p), {});
  ModelDesc model = begin_model(reader, p);
  model.head_bias = reader.find_vector("output.bias", p.n_vocab);
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    LayerDesc layer = begin_layer(p, i, rope);
    bind_attention(reader, p, {.may_have_qkv_bias = true}, layer);
    bind_dense_ffn(reader, p, false, layer);
    model.layers.push_back(std::move(layer));
  }
  reader.finish(model);
  return model;
}

}  // namespace sj
