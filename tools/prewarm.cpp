// `sparkjit prewarm`: compiles every kernel that sessions of some models need on some cards, without those cards, into one file.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cache/bundle.h"
#include "cache/kernel_cache.h"
#include "jit/device_info.h"
#include "jit/base/error.h"
#include "jit/base/file.h"
#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/kv_cache.h"
#include "runtime/options.h"
#include "runtime/planner.h"
#include "runtime/session_steps.h"
#include "runtime/session_tuning.h"
#include "tools/cli.h"
#include "tools/inspect_device.h"

namespace sj {
namespace {

struct PrewarmOptions {
  SessionOptions session;
  std::vector<std::string> model_paths, shapes;
  bool all_shapes = false, f32 = false;
  std::string devices;
  std::string out_path, sign_path;
};

struct NamedModel {
  std::string name;
  ModelDesc model;
};

std::vector<NamedModel> open_models(const PrewarmOptions& options) {
  std::vector<NamedModel> models;
  for (const std::string& path : options.model_paths)
    models.push_back({std::filesystem::path(path).stem().string(), describe_model(open_gguf(path))});
  std::vector<std::string> shapes = options.shapes;
  if (options.all_shapes) shapes = shape_names();
  for (const std::string& name : shapes) {
    const ShapeFile shape = load_shape(name);
    models.push_back({shape.name, describe_model(synthetic_gguf(shape, {}))});
  }
  if (models.empty()) throw Error(ErrorKind::kUsage, "prewarm: no model; give --model, --shape or --all-shapes");
  return models;
}

std::vector<DeviceInfo> find_devices(const PrewarmOptions& options, const SessionOptions& session) {
  std::vector<DeviceInfo> devices;
  for (size_t begin = 0; begin <= options.devices.size();) {
    const size_t end = std::min(options.devices.find(',', begin), options.devices.size());
    const DeviceInfo device = require_inspected_device(options.devices.substr(begin, end - begin), session);
    if (std::find(devices.begin(), devices.end(), device) == devices.end()) devices.push_back(device);
    begin = end + 1;
  }
  return devices;
}

BundleDevice bundle_device(const DeviceInfo& device) {
  return {.name = device.name, .target = device.target(), .n_sms = device.n_sms, .smem_per_block_bytes = device.smem_per_block_bytes};
}

/// What to compile, and what the bundle will say about it.
struct Work {
  size_t n_models = 0;
  std::vector<KernelRequest> requests;
  BundleManifest manifest;
};

void add_model(Work& work, const NamedModel& model, const DeviceInfo& device, const SessionOptions& session) {
  std::vector<Lowered> steps;
  try {
    steps = lower_all_steps(model.model, device, session, session_tuning(session, device, 0));
  } catch (const Error& error) {
    throw error.with_frame(fmt::format("model {} on {}", model.name, device.name));
  }
  KernelTable table = collect_kernels(steps);
  work.manifest.models.push_back({.model = model.name, .device = device.name, .prefill_tokens = session.prefill_tokens,
                                  .is_f32 = session.activations == ActivationMode::kF32,
                                  .kv_type = std::string(kv_type_name(kv_type_of(session))), .n_kernels = static_cast<uint32_t>(table.specs.size())});
  for (KernelSpec& spec : table.specs) work.requests.push_back({std::move(spec), device.target()});
}

Work plan_work(const PrewarmOptions& options, const SessionOptions& session) {
  Work work;
  const std::vector<DeviceInfo> devices = find_devices(options, session);   // a wrong name is told before models are read
  const std::vector<NamedModel> models = open_models(options);
  work.n_models = models.size();
  for (const DeviceInfo& device : devices) {
    work.manifest.devices.push_back(bundle_device(device));
    work.manifest.options[device.target()] = codegen_options(device.target());
    for (const NamedModel& model : models) {
      add_model(work, model, device, session);
      if (!options.f32) continue;
      SessionOptions f32 = session;
      f32.activations = ActivationMode::kF32;
      f32.kv_type.clear();   // such sessions keep floats
      add_model(work, model, device, f32);
    }
  }
  return work;
}

int run_prewarm(const PrewarmOptions& options) {
  SessionOptions session = options.session;
  if (session.tuning_path.empty()) session.tuning_path = "shipped";   // sweeps of this machine's card are not meant for others
  session = resolve_options(session, read_environment());
  session.bundle_paths.clear();   // their cubins may be another compiler's; merging is what `bundle merge` is for
  session.trust_path.clear();
  session.activations = ActivationMode::kAuto;   // what an options file says of sessions here is not meant for these
  session.may_compile = true;
  std::optional<SigningKey> key;
  if (!options.sign_path.empty()) key = SigningKey::from_file(options.sign_path);
  Work work = plan_work(options, session);
  const Nvrtc& nvrtc = require_nvrtc(session.libnvrtc_path);
  const CompilerId compiler{nvrtc.version, nvrtc.build_id};
  KernelCache cache(kernel_cache_options(session, read_environment()));
  const BuiltKernels built = cache.build_kernels(work.requests, session.n_threads);

  BundleContent content;
  content.manifest = std::move(work.manifest);
  content.manifest.made_by = {"sparkjit " SPARKJIT_VERSION};
  content.manifest.compilers = {compiler};
  for (size_t i = 0; i < built.cubins.size(); ++i)
    content.add(cache_key(work.requests[i].spec, cache.sources(), work.requests[i].target, compiler), *built.cubins[i], "this run");
  const std::vector<std::byte> bytes = content.encode(key ? &*key : nullptr);
  atomic_write(options.out_path, bytes, 0644);
  const BuildStats& stats = built.stats;
  write_stdout(fmt::format("{} {} bytes, {} kernels for {} cards and {} models, {}\n{} compiled in {:.1f} s ({:.1f} s of compiling) on {} threads by "
                           "NVRTC {}, {} from the cache\n",
                           options.out_path, bytes.size(), content.entries.size(), content.manifest.devices.size(),
                           work.n_models,
                           key ? "signed by " + key->public_key().hex() : "not signed", stats.n_compiled, stats.wall_us / 1e6,
                           stats.compile_us / 1e6, stats.n_threads, nvrtc.version_text(), stats.n_from_disk));
  return 0;
}

}  // namespace

void add_prewarm_verb(VerbTable& verbs) {
  const auto options = std::make_shared<PrewarmOptions>();
  Flags flags = verbs.add("prewarm", "compile the kernels of models for cards that need not be here", [options] { return run_prewarm(*options); });
  SessionOptions& session = options->session;
  session.show_progress = isatty(STDERR_FILENO) == 1;
  flags.config(session);
  flags.texts("-m,--model", options->model_paths, "GGUF file; may be given several times", "FILE");
  flags.texts("--shape", options->shapes, fmt::format("one of {}, or a .toml file; may be given several times", fmt::join(shape_names(), ", ")), "NAME");
  flags.toggle("--all-shapes", options->all_shapes, "all of them");
  flags.exclude("--all-shapes", "--shape");
  flags.required_text("--device", options->devices, fmt::format("cards: {}; or profiles (*.toml); or cuda:N", fmt::join(device_profile_names(), ", ")),
                      "NAME,NAME,...");
  flags.required_text("-o,--out", options->out_path, "bundle to write", "FILE");
  flags.text("--sign", options->sign_path, "sign with this secret key (`sparkjit bundle keygen` makes one)", "FILE");
  flags.toggle("--f32", options->f32, "the kernels of --f32 sessions too");
  flags.integer("--prefill-tokens", session.prefill_tokens, 1, 1 << 20, "most tokens of a batch step, as the sessions will have it (default 512)");
  flags.choice("--kv-type", session.kv_type, {"f16", "q8_0"}, "how the sessions will cache keys and values (default f16)");
  flags.integer("-t,--threads", session.n_threads, 0, 4096, "threads of the compiler; 0: all cores");
  flags.text("--tuning", session.tuning_path, "database of tuned kernels to compile for; shipped: what is built in (default); none", "FILE");
  flags.text("--cache-dir", session.cache_dir, "kernels that are in here are not compiled again; new ones are added; none: nothing kept", "DIR");
  flags.text("--kernel-dir", session.kernel_dir, "kernel texts from here instead of the embedded ones", "DIR");
  flags.text("--libcuda", session.libcuda_path, "driver library for cuda:N", "FILE");
  flags.text("--libnvrtc", session.libnvrtc_path, "compiler library to open instead of libnvrtc.so.13 or .12", "FILE");
}

}  // namespace sj
