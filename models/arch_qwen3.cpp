// Qwen3 (dense): pre-norm, RMS norm of each query and key head before half-split RoPE, SwiGLU.
#include "models/blocks.h"
#include "models/registry.h"

namespace sj {

ModelDesc describe_qwen3(const GgufFile& file) {
  DescReader reader(file);
  const CommonParams p = read_common(reader);
  const RopeDesc rope = make_rope(RopePairing::kHalfSplit, p.n_rot, p.rope_base, read_rope_scaling(reader, p), {});
  ModelDesc model = begin_model(reader, p);
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    LayerDesc layer = begin_layer(p, i, rope);
    bind_attention(reader, p, {.has_qk_norm = true}, layer);
    bind_dense_ffn(reader, p, false, layer);
    model.layers.push_back(std::move(layer));
  }
  reader.finish(model);
  return model;
}

}  // namespace sj
