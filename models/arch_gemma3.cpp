// Gemma 3 (text): norms before and after attention and feed-forward, RMS norm of query and key heads, GeGLU, scaled
// embedding, sliding windows in all but every p-th layer with a rotary base of their own.
#include <cmath>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/blocks.h"
#include "models/registry.h"

namespace sj {
namespace {

constexpr uint32_t kLayersOf27B = 62;   // the one size whose attention scale is not 1/sqrt(head_dim)
constexpr uint32_t kDefaultPeriod = 6;

struct Windows { uint32_t tokens = 0, period = kDefaultPeriod; };

Windows read_windows(const DescReader& reader) {
  Windows w;
  w.tokens = reader.get_u32("attention.sliding_window", 0, 0, ~0u);
  // An array under this key is not a period; files that carry one mean the default.
  if (reader.file().find_array(reader.key("attention.sliding_window_pattern")) == nullptr)
    w.period = reader.get_u32("attention.sliding_window_pattern", kDefaultPeriod, 0, ~0u);
  return w;
}

bool is_local(const Windows& w, uint32_t layer_idx) {
  if (w.tokens == 0) return false;
  return w.period == 0 || layer_idx % w.period < w.period - 1;
}

float read_softcap(const DescReader& reader) {
  if (const float cap = reader.file().get_f32(reader.key("attn_logit_softcapping"), 0); cap != 0)
    throw Error(ErrorKind::kUnsupported, fmt::format("key {}: a soft cap of attention logits is not supported, found {}",
                                                     reader.key("attn_logit_softcapping"), cap));
  const float cap = reader.file().get_f32(reader.key("final_logit_softcapping"), 0);
  if (!std::isfinite(cap))
    throw Error(ErrorKind::kBadModel,
                fmt::format("key {}: expected a number, found {}", reader.key("final_logit_softcapping"), cap));
  return cap > 0 ? cap : 0;
}

}  // namespace

ModelDesc describe_gemma3(const GgufFile& file) {
  DescReader reader(file);
  const CommonParams p = read_common(reader);
  const Windows windows = read_windows(reader);
  const uint32_t n_rot_local = reader.get_u32("rope.dimension_count_swa", p.n_rot, 2, p.head_dim);
  if (n_rot_local % 2 != 0)
    throw Error(ErrorKind::kBadModel,
                fmt::format("key {}: expected an even number, found {}", reader.key("rope.dimension_count_swa"), n_rot_local));
  const RopeDesc global = make_rope(RopePairing::kHalfSplit, p.n_rot, p.rope_base, read_rope_scaling(reader, p), {});
  const RopeDesc local = make_rope(RopePairing::kHalfSplit, n_rot_local, reader.get_positive("rope.freq_base_swa", 10000), {}, {});
  ModelDesc model = begin_model(reader, p);
  model.embedding_scale = static_cast<float>(std::sqrt(double(p.d_model)));
  model.logit_softcap = read_softcap(reader);
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    const bool has_window = is_local(windows, i);
    LayerDesc layer = begin_layer(p, i, has_window ? local : global);
    layer.attention.window_tokens = has_window ? windows.tokens : 0;
    if (p.n_layers == kLayersOf27B)
      layer.attention.scale = static_cast<float>(1 / std::sqrt(double(p.d_model) / layer.attention.n_head));
    layer.activation = Activation::kGeluTanh;
    bind_attention(reader, p, {.has_qk_norm = true}, layer);
    layer.attn_post_norm = reader.require_vector(layer_tensor(i, "post_attention_norm.weight"), p.d_model);
    bind_dense_ffn(reader, p, false, layer);
    layer.ffn_post_norm = reader.require_vector(layer_tensor(i, "post_ffw_norm.weight"), p.d_model);
    model.layers.push_back(std::move(layer));
  }
  reader.finish(model);
  return model;
}

}  // namespace sj
