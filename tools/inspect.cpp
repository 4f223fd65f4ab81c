// `sparkjit inspect`: what is in a file, and every stage between it and the launches, without running anything.
#include <algorithm>
#include <map>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/error.h"
#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "models/op_graph.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/opened_model.h"
#include "runtime/options.h"
#include "tools/cli.h"
#include "tools/inspect_device.h"

namespace sj {
namespace {

struct InspectOptions {
  SessionOptions session;
  std::string stage = "file";
  std::string device = "rtx5090";
  uint32_t n_tokens = 1;
  bool all_values = false;
  std::string shape;   // instead of a model file
  SynthOptions synth;
  std::vector<uint32_t> depths = {128, 512, 4096, 16384};
};

constexpr size_t kMaxShownItems = 8;
constexpr size_t kMaxShownChars = 100;

// Control characters would take over the terminal that shows them.
std::string quoted(std::string_view text, bool is_whole) {
  std::string shown = "\"";
  const size_t n_chars = is_whole ? text.size() : std::min(text.size(), kMaxShownChars);
  for (const char c : text.substr(0, n_chars)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') shown += "\\n";
    else if (c == '"' || c == '\\') { shown += '\\'; shown += c; }
    else if (byte < 0x20 || byte == 0x7F) shown += fmt::format("\\x{:02x}", byte);
    else shown += c;
  }
  return shown + (n_chars < text.size() ? fmt::format("...\" ({} bytes)", text.size()) : "\"");
}

std::string array_text(const GgufArray& array, bool is_whole) {
  std::string shown = fmt::format("[{} elements]", array.count);
  if (array.strings.empty()) return shown;
  const size_t n_items = is_whole ? array.strings.size() : std::min(array.strings.size(), kMaxShownItems);
  for (size_t i = 0; i < n_items; ++i) shown += " " + quoted(array.strings[i], is_whole);
  return n_items < array.strings.size() ? shown + " ..." : shown;
}

std::string value_text(const GgufValue& value, bool is_whole) {
  if (const auto* text = std::get_if<std::string_view>(&value)) return quoted(*text, is_whole);
  if (const auto* array = std::get_if<GgufArray>(&value)) return array_text(*array, is_whole);
  if (const auto* number = std::get_if<uint64_t>(&value)) return fmt::to_string(*number);
  if (const auto* number = std::get_if<int64_t>(&value)) return fmt::to_string(*number);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{:g}", *number);
  return std::get<bool>(value) ? "true" : "false";
}

std::string file_text(const GgufFile& file, bool is_whole) {
  std::string text = fmt::format("file {}\nparts {}\nbytes {}\n\nmetadata {}\n", file.path(), file.part_paths().size(), file.size_bytes(),
                                 file.metadata().size());
  for (const auto& [key, value] : file.metadata()) text += fmt::format("  {} = {}\n", key, value_text(value, is_whole));
  text += fmt::format("\ntensors {}\n", file.tensors().size());
  struct Sum { uint64_t n_tensors = 0, n_elems = 0, n_bytes = 0; };
  std::map<std::string_view, Sum> by_type;
  for (const TensorInfo& tensor : file.tensors()) {
    text += fmt::format("  {:<40} {:<8} {:<24} {:>12} bytes\n", tensor.name, dtype_name(tensor.dtype),
                        fmt::format("[{}]", fmt::join(tensor.shape, ", ")), tensor.n_bytes);
    Sum& sum = by_type[dtype_name(tensor.dtype)];
    sum.n_tensors += 1;
    sum.n_elems += tensor.n_elems();
    sum.n_bytes += tensor.n_bytes;
  }
  text += "\ntypes\n";
  for (const auto& [type, sum] : by_type)
    text += fmt::format("  {:<8} {:>5} tensors {:>15} weights {:>15} bytes\n", type, sum.n_tensors, sum.n_elems, sum.n_bytes);
  return text;
}

std::string graph_text(const InspectOptions& options, const ModelDesc& model) {
  return dump(build_graph(model, {.n_tokens = options.n_tokens, .max_ctx_tokens = context_tokens(model, options.session.max_ctx_tokens)}));
}

std::string stage_text(const InspectOptions& options) {
  if (options.session.model_path.empty() == options.shape.empty())
    throw Error(ErrorKind::kUsage, "inspect: one of --model and --shape is required");
  const GgufFile file = options.shape.empty() ? open_gguf(options.session.model_path) : synthetic_gguf(load_shape(options.shape), options.synth);
  if (options.stage == "file") return file_text(file, options.all_values);
  const ModelDesc model = describe_model(file);
  if (options.stage == "model") return dump(model);
  if (options.stage == "graph") return graph_text(options, model);
  SessionOptions session = resolve_options(options.session, read_environment());
  const DeviceInfo device = require_inspected_device(options.device, session);
  if (options.stage == "specs") return specs_text(model, device, session);
  if (options.stage == "cubins") return cubins_text(model, device, session);
  if (options.stage == "predict") {
    session.max_ctx_tokens = *std::max_element(options.depths.begin(), options.depths.end()) + 1;
    return predict_text(model, device, session, options.depths);
  }
  return plan_text(file, model, device, session);
}

int run_inspect(const InspectOptions& options) {
  write_stdout(stage_text(options));
  return 0;
}

}  // namespace

void add_inspect_verb(VerbTable& verbs) {
  const auto options = std::make_shared<InspectOptions>();
  Flags flags = verbs.add("inspect", "show a file, or a stage between it and the launches", [options] { return run_inspect(*options); });
  SessionOptions& session = options->session;
  flags.config(session);
  flags.text("-m,--model", session.model_path, "GGUF file (first part of a split one)", "FILE");
  flags.text("--shape", options->shape, fmt::format("no file: the shapes of {}, or of a .toml file", fmt::join(shape_names(), ", ")), "NAME");
  flags.integer("--layers", options->synth.n_layers, 0, 4096, "of --shape, how many layers; 0: as the shape says");
  flags.choice("--stage", options->stage, {"file", "model", "graph", "specs", "cubins", "plan", "predict"}, "what to show (default file: metadata and tensors)");
  flags.text("--device", options->device, "card for specs, cubins, plan and predict: a profile's name or file, or cuda:N (default rtx5090)", "NAME");
  flags.integer("--n-tokens", options->n_tokens, 1, 1 << 20, "tokens a step of --stage graph (default 1)");
  flags.integer("--prefill-tokens", session.prefill_tokens, 1, 1 << 20, "most tokens of a batch step (default 512)");
  flags.integers("-d,--depth", options->depths, 0, 1 << 24, "tokens in the context, of --stage predict (default 128,512,4096,16384)");
  flags.choice("--kv-type", session.kv_type, {"f16", "q8_0"}, "how a session would cache keys and values (default f16)");
  flags.integer("-c,--ctx", session.max_ctx_tokens, 0, 1 << 24, "context in tokens; 0: the model's own, at most 4096");
  flags.integer("-t,--threads", session.n_threads, 0, 4096, "threads of the compiler; 0: all cores");
  flags.text("--libcuda", session.libcuda_path, "driver library to open instead of libcuda.so.1", "FILE");
  flags.kernels(session);
  flags.toggle("--all", options->all_values, "long texts and lists in full");
}

}  // namespace sj
