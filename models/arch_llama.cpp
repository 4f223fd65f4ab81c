// Llama and its kin (SmolLM2, Mistral, Mixtral): pre-norm, interleaved RoPE over the whole head with optional Llama-3
// frequency divisors, SwiGLU or a mixture of SwiGLU experts, optional biases.
#include <cmath>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/blocks.h"
#include "models/registry.h"

namespace sj {
namespace {

std::vector<double> read_rope_divisors(DescReader& reader, const CommonParams& p) {
  const std::optional<WeightRef> tensor = reader.find_vector("rope_freqs.weight", p.n_rot / 2);
  if (!tensor) return {};
  std::vector<double> divisors = reader.read_vector(*tensor);
  for (double value : divisors)
    if (!std::isfinite(value) || value <= 0)
      throw Error(ErrorKind::kBadModel, fmt::format("tensor rope_freqs.weight: expected positive numbers, found {}", value));
  return divisors;
}

}  // namespace

ModelDesc describe_llama(const GgufFile& file) {
  DescReader reader(file);
  const CommonParams p = read_common(reader);
  if (p.n_rot != p.head_dim)
    throw Error(ErrorKind::kUnsupported, fmt::format("key {}: llama rotates whole heads; expected {}, found {}",
                                                     reader.key("rope.dimension_count"), p.head_dim, p.n_rot));
  const RopeScaling scaling = read_rope_scaling(reader, p);
  const std::vector<double> divisors = read_rope_divisors(reader, p);
  const RopeDesc rope = make_rope(RopePairing::kInterleaved, p.n_rot, p.rope_base, scaling, divisors);
  ModelDesc model = begin_model(reader, p);
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    LayerDesc layer = begin_layer(p, i, rope);
    bind_attention(reader, p, {.may_have_qkv_bias = true, .may_have_output_bias = true}, layer);
    if (p.n_experts > 0)
      bind_moe_ffn(reader, p, p.ff_dim[i], layer);
    else
      bind_dense_ffn(reader, p, true, layer);
    model.layers.push_back(std::move(layer));
  }
  reader.finish(model);
  return model;
}

}  // namespace sj
