// Qwen3 mixture of experts: attention of qwen3; every layer routes each token to a few SwiGLU experts.
#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/blocks.h"
#include "models/registry.h"

namespace sj {

ModelDesc describe_qwen3moe(const GgufFile& file) {
  DescReader reader(file);
  const CommonParams p = read_common(reader);
  if (p.n_experts == 0)
    throw Error(ErrorKind::kBadModel, fmt::format("key {}: expected a positive number, found 0", reader.key("expert_count")));
  const RopeDesc rope = make_rope(RopePairing::kHalfSplit, p.n_rot, p.rope_base, read_rope_scaling(reader, p), {});
  ModelDesc model = begin_model(reader, p);
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    LayerDesc layer = begin_layer(p, i, rope);
    bind_attention(reader, p, {.has_qk_norm = true}, layer);
    const uint32_t fallback = p.ff_dim[i] / p.n_experts_used;
    bind_moe_ffn(reader, p, reader.get_u32("expert_feed_forward_length", fallback, 0, 1u << 24), layer);
    model.layers.push_back(std::move(layer));
  }
  reader.finish(model);
  return model;
}

}  // namespace sj
