#include "tools/inspect_device.h"

#include <charconv>
#include <vector>

#include <fmt/format.h>

#include "cache/kernel_cache.h"
#include "jit/base/error.h"
#include "jit/driver.h"
#include "runtime/cuda_session.h"
#include "runtime/kv_cache.h"
#include "runtime/lowered.h"
#include "runtime/memory_plan.h"
#include "runtime/options.h"
#include "runtime/planner.h"
#include "runtime/session_steps.h"
#include "runtime/session_tuning.h"
#include "runtime/weights.h"
#include "tools/cli.h"
#include "tools/predict.h"

namespace sj {
namespace {

/// The driver that would run them is unknown, unless the card is here; records of any serve.
std::vector<Lowered> inspected_steps(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options) {
  return lower_steps(model, device, options, session_tuning(options, device, 0));
}

std::string step_title(const Lowered& step) {
  return fmt::format("step of {} token{}, logits of {}: {} launches, {} values, {} weights\n", step.n_tokens, step.n_tokens == 1 ? "" : "s",
                     step.all_logits ? "all tokens" : "the last token", step.launches.size(), step.values.size(), step.weights.size());
}

std::string arena_text(const Lowered& step, const ArenaPlan& arena) {
  const std::vector<Lifetime> lifetimes = value_lifetimes(step);
  std::string text = step_title(step) + fmt::format("  arena {}\n", bytes_text(arena.n_bytes));
  for (size_t i = 0; i < step.values.size(); ++i)
    if (lifetimes[i].is_used)
      text += fmt::format("  {:>12} + {:<10} launches {:>4} .. {:<4} {}\n", arena.offsets[i], step.values[i].n_bytes, lifetimes[i].first,
                          lifetimes[i].last, step.values[i].name);
  return text;
}

}  // namespace

DeviceInfo require_inspected_device(const std::string& name, const SessionOptions& options) {
  constexpr std::string_view kCuda = "cuda";
  if (!name.starts_with(kCuda)) return require_device_profile(name);
  const std::string device = parse_device("--device", name);
  const int ordinal = device == kCuda ? 0 : static_cast<int>(parse_integer("--device", device.substr(kCuda.size() + 1), 0, 1 << 20));
  return device_info(require_driver(options.libcuda_path), ordinal);
}

std::string specs_text(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options) {
  std::string text;
  for (const Lowered& step : inspected_steps(model, device, options)) text += step_title(step) + dump(step) + "\n";
  return text;
}

std::string cubins_text(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options) {
  const std::vector<Lowered> steps = inspected_steps(model, device, options);
  const KernelTable table = collect_kernels(steps);
  KernelCache cache(kernel_cache_options(options, read_environment()));
  const BuiltKernels built = cache.build_kernels(table.specs, device.target(), options.n_threads);
  std::string text = fmt::format("target {}\nkernels {} ({} compiled, {} from disk, {} from bundles) in {:.2f} s on {} threads\n\n"
                                 "regs  spilled B  smem B  cubin B  compile ms  kernel\n",
                                 device.target(), built.stats.n_kernels, built.stats.n_compiled, built.stats.n_from_disk, built.stats.n_from_bundle + built.stats.n_from_family,
                                 built.stats.wall_us / 1e6, built.stats.n_threads);
  for (size_t i = 0; i < built.cubins.size(); ++i) {
    const Cubin& cubin = *built.cubins[i];
    const uint32_t smem_bytes = cubin.resources.static_smem_bytes + table.specs[i].launch.dynamic_smem_bytes;
    text += fmt::format("{:>4}  {:>9}  {:>6}  {:>7}  {:>10.0f}  {}\n", cubin.resources.registers, cubin.resources.spill_bytes, smem_bytes,
                        cubin.bytes.size(), cubin.compile_us / 1e3, cubin.label);
  }
  return text;
}

std::string predict_text(const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options,
                         std::span<const uint32_t> depths) {
  const std::vector<Lowered> steps = inspected_steps(model, device, options);
  std::vector<Prediction> predictions;
  for (const uint32_t depth : depths) predictions.push_back(predict_decode(decode_step(steps, depth), depth, device));
  return format_predictions(device, predictions);
}

std::string plan_text(const GgufFile& file, const ModelDesc& model, const DeviceInfo& device, const SessionOptions& options) {
  const std::vector<Lowered> steps = inspected_steps(model, device, options);
  const FileWeights source(file, false);
  const WeightPlan weights(source, steps);
  const StatePlan states = plan_states(steps);
  const KvType kv_type = kv_type_of(options);
  std::string text = fmt::format("weights {}\nKV cache {}, {}\nstate {} on the device, {} on the host\n", bytes_text(weights.n_bytes()),
                                 bytes_text(kv_cache_bytes(model, context_tokens(model, options.max_ctx_tokens), kv_type)), kv_type_name(kv_type),
                                 bytes_text(states.device_bytes), bytes_text(states.host_bytes));
  for (const auto& [key, place] : states.places)
    text += fmt::format("  {:<6} {:>12} + {:<12} {}\n", place.home == StateHome::kDevice ? "device" : "host", place.offset_bytes, place.n_bytes, key);
  for (const Lowered& step : steps) text += "\n" + arena_text(step, plan_arena(step));
  return text;
}

}  // namespace sj
