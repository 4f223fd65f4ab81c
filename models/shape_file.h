// The shape of a model without its weights: hyperparameters and the tensor type of each role, from models/shapes/*.toml
// (part of the binary) or a file of the user. In: a name or a path. Out: ShapeFile and its tensor table. Called by synth,
// bench --shape.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "jit/base/dtype.h"

namespace sj {

using ShapeValue = std::variant<uint32_t, float, bool, std::string>;

struct ShapeTokenizer {
  std::string pre;                  ///< pre-tokenizer, e.g. "qwen2"
  uint32_t n_vocab = 0;
  std::optional<uint32_t> bos_token_id, eos_token_id;
};

/// Type of a role's tensors; `important` on the layers that the Q4_K_M rule favours.
struct RoleMix {
  DType dtype = DType::kF32;
  std::optional<DType> important;
};

struct ShapeFile {
  std::string where;                ///< "shape qwen3-8b" or the path, for messages
  std::string name, architecture;
  std::vector<std::pair<std::string, ShapeValue>> hyperparameters;   ///< keys without "<architecture>.", file order
  ShapeTokenizer tokenizer;
  std::map<std::string, RoleMix> mix;   ///< by role: "attn_q", "ffn_down_exps", "output_norm"

  /// Throws kUsage naming the file when the key is missing or no integer from 1 on.
  uint32_t require_dim(std::string_view key) const;
  std::optional<uint32_t> find_dim(std::string_view key) const;
};

struct ShapeTensor {
  std::string name;                 ///< GGUF name: "blk.3.attn_q.weight"
  std::string role;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;      ///< slowest first
};

/// Names of the shapes in the binary, sorted.
std::vector<std::string> shape_names();
/// By name, or by path when `name_or_path` ends in ".toml". Throws kUsage (unknown name, with the known ones; a key, role,
/// type or size that can't be, with the file's name) or kIo.
ShapeFile load_shape(const std::string& name_or_path);
/// `where` stands for the file in messages.
ShapeFile parse_shape(std::string_view toml_text, const std::string& where);

/// Every tensor in file order, for `n_layers` layers (0: as many as the shape says). Throws kUsage for sizes that don't fit
/// together.
std::vector<ShapeTensor> shape_tensors(const ShapeFile& shape, uint32_t n_layers = 0);

/// The type that the quantiser takes instead of `dtype` for rows of `row_elems`: the type itself where its blocks fit.
DType fallback_type(DType dtype, uint64_t row_elems);
/// Q4_K_M's favoured layers: the first and last eighth, and every third between them.
bool is_important_layer(uint32_t layer, uint32_t n_layers);

}  // namespace sj
