#include "models/shape_file.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <span>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include "jit/base/error.h"
#include "models/shapes_embedded.h"

namespace sj {
namespace {

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw Error(ErrorKind::kUsage, fmt::format("{}: {}", where, why));
}

/// What a tensor's extent comes from.
enum class Dim { kVocab, kModel, kHeadDim, kQRows, kKRows, kVRows, kAttnOut, kFf, kExpertFf, kExperts };

struct Role {
  std::string_view name;
  bool is_per_layer;
  std::string_view suffix;             ///< after the role's name in the GGUF name
  std::array<Dim, 3> dims;
  uint32_t n_dims;
};

using enum Dim;
constexpr Role kRoles[] = {
    {"token_embd", false, ".weight", {kVocab, kModel}, 2},
    {"attn_norm", true, ".weight", {kModel}, 1},
    {"attn_q", true, ".weight", {kQRows, kModel}, 2},
    {"attn_q_bias", true, ".bias", {kQRows}, 1},
    {"attn_k", true, ".weight", {kKRows, kModel}, 2},
    {"attn_k_bias", true, ".bias", {kKRows}, 1},
    {"attn_v", true, ".weight", {kVRows, kModel}, 2},
    {"attn_v_bias", true, ".bias", {kVRows}, 1},
    {"attn_output", true, ".weight", {kModel, kAttnOut}, 2},
    {"attn_q_norm", true, ".weight", {kHeadDim}, 1},
    {"attn_k_norm", true, ".weight", {kHeadDim}, 1},
    {"ffn_norm", true, ".weight", {kModel}, 1},
    {"ffn_gate", true, ".weight", {kFf, kModel}, 2},
    {"ffn_up", true, ".weight", {kFf, kModel}, 2},
    {"ffn_down", true, ".weight", {kModel, kFf}, 2},
    {"ffn_gate_inp", true, ".weight", {kExperts, kModel}, 2},
    {"ffn_gate_exps", true, ".weight", {kExperts, kExpertFf, kModel}, 3},
    {"ffn_up_exps", true, ".weight", {kExperts, kExpertFf, kModel}, 3},
    {"ffn_down_exps", true, ".weight", {kExperts, kModel, kExpertFf}, 3},
    {"output_norm", false, ".weight", {kModel}, 1},
    {"output", false, ".weight", {kVocab, kModel}, 2},
};

const Role* find_role(std::string_view name) {
  const auto at = std::find_if(std::begin(kRoles), std::end(kRoles), [&](const Role& role) { return role.name == name; });
  return at == std::end(kRoles) ? nullptr : at;
}

std::string known_roles() {
  std::vector<std::string_view> names;
  for (const Role& role : kRoles) names.push_back(role.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

/// "models/x.toml line 12": where a TOML node stands.
std::string at_line(const std::string& where, const toml::node& node) {
  return fmt::format("{} line {}", where, node.source().begin.line);
}

uint32_t integer(const std::string& where, std::string_view key, const toml::node& node, int64_t lowest) {
  const auto value = node.value_exact<int64_t>();
  if (!value || *value < lowest || *value > INT32_MAX)
    refuse(at_line(where, node), fmt::format("{}: expected an integer from {} to {}{}", key, lowest, INT32_MAX, value ? fmt::format(", found {}", *value) : ""));
  return static_cast<uint32_t>(*value);
}

std::string text(const std::string& where, std::string_view key, const toml::node& node) {
  const auto value = node.value_exact<std::string>();
  if (!value || value->empty()) refuse(at_line(where, node), fmt::format("{}: expected a text", key));
  return *value;
}

DType weight_type(const std::string& where, std::string_view role, const toml::node& node) {
  const std::string name = text(where, role, node);
  const std::optional<DType> dtype = find_dtype_by_name(name);
  constexpr std::array kNoWeights = {DType::kI8, DType::kI16, DType::kI32, DType::kI64, DType::kF64};
  if (!dtype || std::find(kNoWeights.begin(), kNoWeights.end(), *dtype) != kNoWeights.end())
    refuse(at_line(where, node), fmt::format("{}: \"{}\" is no weight type (F32, F16, BF16, Q4_0 ... Q6_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4)", role, name));
  return *dtype;
}

const toml::table& require_table(const toml::table& root, const std::string& where, std::string_view key) {
  const toml::node* node = root.get(key);
  if (node == nullptr || !node->is_table()) refuse(where, fmt::format("table [{}] is missing", key));
  return *node->as_table();
}

using Lined = std::pair<toml::source_index, std::pair<std::string, ShapeValue>>;

/// Sub-tables are flattened: attention.head_count is one key, quoted or not.
void collect_hyperparameters(const toml::table& table, const std::string& prefix, const std::string& where, std::vector<Lined>& out) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    ShapeValue value;
    if (const toml::table* inner = node.as_table()) {
      collect_hyperparameters(*inner, name + ".", where, out);
      continue;
    }
    if (node.is_integer()) value = integer(where, name, node, 0);
    else if (const auto number = node.value_exact<double>()) value = static_cast<float>(*number);
    else if (const auto flag = node.value_exact<bool>()) value = *flag;
    else if (const auto word = node.value_exact<std::string>()) value = *word;
    else refuse(at_line(where, node), fmt::format("{}: expected an integer, float, bool or text", name));
    out.push_back({node.source().begin.line, {name, std::move(value)}});
  }
}

void read_hyperparameters(const toml::table& table, ShapeFile& out) {
  std::vector<Lined> found;
  collect_hyperparameters(table, "", out.where, found);
  std::sort(found.begin(), found.end(), [](const Lined& a, const Lined& b) { return a.first < b.first; });
  for (auto& [line, entry] : found) out.hyperparameters.push_back(std::move(entry));
}

void read_tokenizer(const toml::table& table, ShapeFile& out) {
  ShapeTokenizer& t = out.tokenizer;
  for (const auto& [key, node] : table) {
    if (key == "pre") t.pre = text(out.where, "pre", node);
    else if (key == "n_vocab") t.n_vocab = integer(out.where, "n_vocab", node, 1);
    else if (key == "bos_token_id") t.bos_token_id = integer(out.where, "bos_token_id", node, 0);
    else if (key == "eos_token_id") t.eos_token_id = integer(out.where, "eos_token_id", node, 0);
    else refuse(at_line(out.where, node), fmt::format("unknown key tokenizer.{}; known are pre, n_vocab, bos_token_id, eos_token_id", key.str()));
  }
  // 256 byte tokens, the two special ones and a few merges must fit.
  if (t.pre.empty() || t.n_vocab < 300) refuse(out.where, fmt::format("tokenizer: expected pre and n_vocab from 300 on, found \"{}\" and {}", t.pre, t.n_vocab));
  for (const auto& id : {t.bos_token_id, t.eos_token_id})
    if (id && *id >= t.n_vocab) refuse(out.where, fmt::format("tokenizer: special token {} is outside the vocabulary of {}", *id, t.n_vocab));
}

void read_mix(const toml::table& table, ShapeFile& out) {
  for (const auto& [key, node] : table) {
    const std::string role(key.str());
    if (find_role(role) == nullptr) refuse(at_line(out.where, node), fmt::format("unknown tensor role \"{}\"; known are {}", role, known_roles()));
    RoleMix mix;
    if (const toml::table* types = node.as_table()) {
      for (const auto& [which, type] : *types) {
        if (which == "type") mix.dtype = weight_type(out.where, role, type);
        else if (which == "important") mix.important = weight_type(out.where, role, type);
        else refuse(at_line(out.where, type), fmt::format("{}: unknown key \"{}\"; known are type, important", role, which.str()));
      }
      if (!types->contains("type")) refuse(at_line(out.where, node), fmt::format("{}: type is missing", role));
    } else {
      mix.dtype = weight_type(out.where, role, node);
    }
    out.mix[role] = mix;
  }
  for (const std::string_view role : {"token_embd", "output_norm"})
    if (out.mix.find(std::string(role)) == out.mix.end()) refuse(out.where, fmt::format("[mix]: role \"{}\" is missing", role));
}

uint64_t extent(const ShapeFile& shape, Dim dim) {
  const auto heads = [&] { return uint64_t{shape.require_dim("attention.head_count")}; };
  const auto kv_heads = [&] { return uint64_t{shape.find_dim("attention.head_count_kv").value_or(static_cast<uint32_t>(heads()))}; };
  const auto head_dim = [&](std::string_view key) -> uint64_t {
    if (const auto dim_of_key = shape.find_dim(key)) return *dim_of_key;
    const uint32_t d_model = shape.require_dim("embedding_length");
    if (d_model % heads() != 0) refuse(shape.where, fmt::format("embedding_length {} is no multiple of attention.head_count {}, and {} is not given", d_model, heads(), key));
    return d_model / heads();
  };
  switch (dim) {
    case kVocab: return shape.tokenizer.n_vocab;
    case kModel: return shape.require_dim("embedding_length");
    case kHeadDim: return head_dim("attention.key_length");
    case kQRows: return heads() * head_dim("attention.key_length");
    case kKRows: return kv_heads() * head_dim("attention.key_length");
    case kVRows: return kv_heads() * head_dim("attention.value_length");
    case kAttnOut: return heads() * head_dim("attention.value_length");
    case kFf: return shape.require_dim("feed_forward_length");
    case kExpertFf: return shape.require_dim("expert_feed_forward_length");
    case kExperts: return shape.require_dim("expert_count");
  }
  return 0;
}

void check_heads(const ShapeFile& shape) {
  const uint32_t heads = shape.require_dim("attention.head_count");
  const uint32_t kv_heads = shape.find_dim("attention.head_count_kv").value_or(heads);
  if (heads % kv_heads != 0) refuse(shape.where, fmt::format("attention.head_count {} is no multiple of attention.head_count_kv {}", heads, kv_heads));
  const auto experts = shape.find_dim("expert_count"), used = shape.find_dim("expert_used_count");
  if (experts && (!used || *used > *experts))
    refuse(shape.where, fmt::format("expert_used_count {} must be from 1 to expert_count {}", used.value_or(0), *experts));
}

}  // namespace

std::optional<uint32_t> ShapeFile::find_dim(std::string_view key) const {
  for (const auto& [name_of, value] : hyperparameters) {
    if (name_of != key) continue;
    const auto* number = std::get_if<uint32_t>(&value);
    if (number == nullptr || *number == 0) refuse(where, fmt::format("{}: expected an integer from 1 on", key));
    return *number;
  }
  return std::nullopt;
}

uint32_t ShapeFile::require_dim(std::string_view key) const {
  if (const auto dim = find_dim(key)) return *dim;
  refuse(where, fmt::format("hyperparameter {} is missing", key));
}

std::vector<std::string> shape_names() {
  std::vector<std::string> out;
  for (const EmbeddedShape& shape : embedded_shapes()) out.emplace_back(shape.name);
  return out;
}

ShapeFile parse_shape(std::string_view toml_text, const std::string& where) {
  toml::table root;
  try {
    root = toml::parse(toml_text);
  } catch (const toml::parse_error& error) {
    refuse(fmt::format("{} line {}", where, error.source().begin.line), std::string(error.description()));
  }
  ShapeFile out;
  out.where = where;
  for (const auto& [key, node] : root) {
    if (key == "name") out.name = text(where, "name", node);
    else if (key == "architecture") out.architecture = text(where, "architecture", node);
    else if (key != "hyperparameters" && key != "tokenizer" && key != "mix")
      refuse(at_line(where, node), fmt::format("unknown key {}; known are name, architecture, hyperparameters, tokenizer, mix", key.str()));
  }
  if (out.name.empty() || out.architecture.empty()) refuse(where, "name and architecture must be given");
  read_hyperparameters(require_table(root, where, "hyperparameters"), out);
  read_tokenizer(require_table(root, where, "tokenizer"), out);
  read_mix(require_table(root, where, "mix"), out);
  shape_tensors(out);   // refuses sizes that don't fit together
  return out;
}

ShapeFile load_shape(const std::string& name_or_path) {
  if (name_or_path.ends_with(".toml")) {
    std::ifstream in(name_or_path, std::ios::binary);
    std::ostringstream content;
    if (!in || !(content << in.rdbuf())) throw Error(ErrorKind::kIo, fmt::format("{}: can't read the shape file", name_or_path));
    return parse_shape(content.str(), name_or_path);
  }
  for (const EmbeddedShape& shape : embedded_shapes())
    if (shape.name == name_or_path) return parse_shape(shape.text, fmt::format("shape {}", shape.name));
  throw Error(ErrorKind::kUsage, fmt::format("shape \"{}\": expected one of {}, or the path of a .toml file", name_or_path, fmt::join(shape_names(), ", ")));
}

DType fallback_type(DType dtype, uint64_t row_elems) {
  if (row_elems % dtype_info(dtype).block_elems == 0) return dtype;
  DType smaller = DType::kF16;
  switch (dtype) {
    case DType::kQ4_K: smaller = DType::kQ5_0; break;
    case DType::kQ5_K: smaller = DType::kQ5_1; break;
    case DType::kQ6_K: smaller = DType::kQ8_0; break;
    case DType::kQ2_K: case DType::kQ3_K: smaller = DType::kQ4_0; break;
    case DType::kIQ4_XS: smaller = DType::kIQ4_NL; break;
    default: break;
  }
  return row_elems % dtype_info(smaller).block_elems == 0 ? smaller : DType::kF16;
}

bool is_important_layer(uint32_t layer, uint32_t n_layers) {
  const uint32_t eighth = n_layers / 8;
  return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

std::vector<ShapeTensor> shape_tensors(const ShapeFile& shape, uint32_t n_layers) {
  if (n_layers == 0) n_layers = shape.require_dim("block_count");
  if (n_layers > 512) refuse(shape.where, fmt::format("expected 1 to 512 layers, found {}", n_layers));
  check_heads(shape);
  std::vector<ShapeTensor> out;
  uint64_t n_bytes = 0;
  const auto add = [&](const Role& role, std::string name, uint32_t layer) {
    const auto mix = shape.mix.find(std::string(role.name));
    if (mix == shape.mix.end()) return;
    ShapeTensor tensor{.name = std::move(name) + std::string(role.suffix), .role = std::string(role.name)};
    for (uint32_t i = 0; i < role.n_dims; ++i) tensor.shape.push_back(extent(shape, role.dims[i]));
    const bool is_favoured = mix->second.important && is_important_layer(layer, n_layers);
    tensor.dtype = role.n_dims == 1 ? DType::kF32 : fallback_type(is_favoured ? *mix->second.important : mix->second.dtype, tensor.shape.back());
    uint64_t tensor_bytes = dtype_info(tensor.dtype).block_bytes;
    for (uint32_t i = 0; i < role.n_dims; ++i)
      if (__builtin_mul_overflow(tensor_bytes, tensor.shape[i], &tensor_bytes) || tensor_bytes > uint64_t{1} << 48)
        refuse(shape.where, fmt::format("tensor {} of [{}] is impossibly large", tensor.name, fmt::join(tensor.shape, ", ")));
    n_bytes += tensor_bytes / dtype_info(tensor.dtype).block_elems;
    if (n_bytes > uint64_t{1} << 44) refuse(shape.where, fmt::format("the tensors up to {} have {} bytes: impossibly large", tensor.name, n_bytes));
    out.push_back(std::move(tensor));
  };
  constexpr std::string_view kBias = "_bias";
  for (const Role& role : kRoles)
    if (role.name == "token_embd") add(role, std::string(role.name), 0);
  for (uint32_t layer = 0; layer < n_layers; ++layer)
    for (const Role& role : kRoles) {
      if (!role.is_per_layer) continue;
      std::string_view stem = role.name;
      if (stem.ends_with(kBias)) stem.remove_suffix(kBias.size());
      add(role, fmt::format("blk.{}.{}", layer, stem), layer);
    }
  for (const Role& role : kRoles)
    if (!role.is_per_layer && role.name != "token_embd") add(role, std::string(role.name), 0);
  return out;
}

}  // namespace sj
