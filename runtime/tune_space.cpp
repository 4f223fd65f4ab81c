#include "runtime/tune_space.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/error.h"
#include "models/op_graph.h"
#include "runtime/lowering.h"
#include "runtime/session_steps.h"

namespace sj {
namespace {

/// The cost model only says what is hopeless: measuring is cheap, a wrong "no" is not.
constexpr double kLeastInFlight = 0.5;      // resident requests, as a share of the default's or of what saturates the memory
constexpr double kMemoryLatencyUs = 0.8;    // loaded; times the bandwidth that saturates it
constexpr double kMuchSlower = 1.5, kSlowerUs = 1;   // least time, as a multiple of the default's, and beyond it
constexpr double kWaveUs = 1;               // a block's start and the first answer of the memory, for each round of blocks but the first
constexpr double kSmBytesPerUs = 100e3;     // what one SM can read while others have nothing to do: 64 bytes a clock

uint64_t n_blocks(const LaunchShape& shape) { return uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z; }
uint32_t n_threads(const LaunchShape& shape) { return shape.block.x * shape.block.y * shape.block.z; }
uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

/// CUDA C++ programming guide, "maximum number of resident blocks per SM".
uint32_t max_blocks_per_sm(const DeviceInfo& device) {
  switch (device.arch()) {
    case 86: case 87: return 16;
    case 89: case 120: case 121: return 24;
    default: return 32;
  }
}

uint64_t n_waves(const TuneCandidate& c, const DeviceInfo& device) {
  const uint64_t resident = uint64_t{c.blocks_per_sm} * device.n_sms;
  return (n_blocks(c.spec.launch) + resident - 1) / resident;
}

/// What a launch takes at least: its bytes at the memory's speed, or those of the SM that has most blocks when they are dealt out
/// evenly and share the bytes in equal parts; and each further round of blocks starts anew.
double least_us(const TuneCandidate& c, const DeviceInfo& device) {
  const uint64_t n = n_blocks(c.spec.launch);
  const double busiest = c.spec.cost.bytes / static_cast<double>(n) * static_cast<double>((n + device.n_sms - 1) / device.n_sms);
  const double all_us = device.bandwidth_gb_per_s > 0 ? c.spec.cost.bytes / (device.bandwidth_gb_per_s * 1e3) : 0;
  return std::max(busiest / kSmBytesPerUs, all_us) + kWaveUs * static_cast<double>(n_waves(c, device) - 1);
}

/// Bytes that all resident blocks may have asked for at once: a block asks for its share, or for what its buffer holds of it.
double bytes_in_flight(const TuneCandidate& c, const DeviceInfo& device) {
  const uint64_t n = n_blocks(c.spec.launch);
  double each = c.spec.cost.bytes / static_cast<double>(n);
  if (c.spec.launch.dynamic_smem_bytes != 0) each = std::min(each, static_cast<double>(c.spec.launch.dynamic_smem_bytes));
  return each * static_cast<double>(std::min<uint64_t>(n, uint64_t{c.blocks_per_sm} * device.n_sms));
}

void prune(TuneCandidate& candidate, PruneReason reason, std::string why) {
  candidate.pruned = reason;
  candidate.why = std::move(why);
}

/// What may differ between the default's step and a candidate's is the kernel and its launch, and the size of buffers.
bool is_same_structure(const Lowered& a, const Lowered& b) {
  if (a.launches.size() != b.launches.size() || a.values.size() != b.values.size() || a.states.size() != b.states.size() ||
      a.weights != b.weights)
    return false;
  const auto is_same_patch = [](const ArgPatch& x, const ArgPatch& y) { return x.args_offset == y.args_offset && x.ref == y.ref; };
  for (size_t i = 0; i < a.launches.size(); ++i)
    if (a.launches[i].label != b.launches[i].label ||
        !std::equal(a.launches[i].patches.begin(), a.launches[i].patches.end(), b.launches[i].patches.begin(),
                    b.launches[i].patches.end(), is_same_patch))
      return false;
  for (size_t i = 0; i < a.states.size(); ++i)
    if (a.states[i].key != b.states[i].key) return false;
  return true;
}

void widen(Lowered& widest, const Lowered& step) {
  for (size_t i = 0; i < widest.values.size(); ++i)
    widest.values[i].n_bytes = std::max(widest.values[i].n_bytes, step.values[i].n_bytes);
  for (size_t i = 0; i < widest.states.size(); ++i)
    widest.states[i].n_bytes = std::max(widest.states[i].n_bytes, step.states[i].n_bytes);
}

std::string launch_text(const KernelSpec& spec) {
  const LaunchShape& s = spec.launch;
  return fmt::format("{}{}\n{},{},{} {} {}", spec.entry, baked_header(spec), s.grid.x, s.grid.y, s.grid.z, n_threads(s), s.dynamic_smem_bytes);
}

}  // namespace

namespace {

/// For positions from `first` on, before `end`: checked in the middle, measured in the middle of each third.
TuneContext context_over(uint32_t attend_tokens, uint32_t first, uint32_t end) {
  TuneContext context{.attend_tokens = attend_tokens, .depth_tokens = first + (end - first) / 2};
  for (const uint32_t sixth : {1u, 3u, 5u}) context.sample_depths.push_back(first + static_cast<uint32_t>(uint64_t{end - first} * sixth / 6));
  return context;
}

}  // namespace

std::string depths_text(const TuneContext& context) { return fmt::format("{}", fmt::join(context.sample_depths, ", ")); }

std::vector<TuneContext> tune_contexts(uint32_t max_ctx_tokens, std::span<const uint32_t> depths) {
  std::vector<TuneContext> all;
  uint32_t first = 0;
  for (uint32_t size = attend_size(1); size < max_ctx_tokens; size = attend_size(size + 1)) {
    all.push_back(context_over(size, first, size));
    first = size;
  }
  all.push_back(context_over(0, first, max_ctx_tokens));
  if (depths.empty()) return all;
  std::vector<TuneContext> chosen;
  for (const uint32_t depth : depths) {
    if (depth >= max_ctx_tokens)
      throw Error(ErrorKind::kUsage, fmt::format("--depth: {} tokens and the next don't fit the context of {}; raise --ctx", depth, max_ctx_tokens));
    const auto serves = [&](const TuneContext& c) { return c.attend_tokens == 0 || depth < c.attend_tokens; };
    const TuneContext& context = *std::find_if(all.begin(), all.end(), serves);
    const auto is_same = [&](const TuneContext& c) { return c.attend_tokens == context.attend_tokens; };
    if (std::none_of(chosen.begin(), chosen.end(), is_same)) chosen.push_back({context.attend_tokens, depth, {depth}});
  }
  return chosen;
}

std::string_view prune_reason_name(PruneReason reason) {
  switch (reason) {
    case PruneReason::kNone: return "";
    case PruneReason::kInadmissible: return "inadmissible";
    case PruneReason::kSameKernel: return "same kernel";
    case PruneReason::kUncompilable: return "does not compile";
    case PruneReason::kSpills: return "spills";
    case PruneReason::kSharedMemory: return "shared memory";
    case PruneReason::kNotResident: return "not resident";
    case PruneReason::kSlowByModel: return "slow by the cost model";
    case PruneReason::kFailedBefore: return "failed before";
    case PruneReason::kFewInFlight: return "few in flight";
  }
  return "?";
}

size_t TuneKey::n_pruned() const {
  return static_cast<size_t>(std::count_if(candidates.begin(), candidates.end(), [](const TuneCandidate& c) { return c.is_pruned(); }));
}

TuneSpace::TuneSpace(const ModelDesc& model, const DeviceInfo& device, ActivationMode activations, uint32_t max_ctx_tokens,
                     std::vector<TuneContext> contexts)
    : model_(model), device_(device), activations_(activations), max_ctx_tokens_(max_ctx_tokens) {
  const Tuning none;
  for (const TuneContext& context : contexts) {
    contexts_.push_back(context);
    Lowered step = lower(contexts_.size() - 1, none);
    // Where nothing depends on the position all contexts have the same step.
    if (step.attend_tokens != context.attend_tokens) contexts_.back().attend_tokens = 0;
    const bool is_repeated = contexts_.size() > 1 && contexts_.back().attend_tokens == contexts_[contexts_.size() - 2].attend_tokens;
    if (is_repeated) contexts_.pop_back();
    else widest_.push_back(std::move(step));
  }
}

Lowered TuneSpace::lower(size_t context, const Tuning& tuning) const {
  Tuning strict = tuning;
  strict.is_strict = true;
  return lower_graph(build_graph(model_, {.n_tokens = 1, .max_ctx_tokens = max_ctx_tokens_}), model_, device_,
                     {.activations = activations_, .attend_tokens = contexts_[context].attend_tokens, .tuning = std::move(strict)});
}

std::vector<TuneKey> TuneSpace::enumerate(const std::string& glob) {
  std::vector<TuneKey> keys;
  std::set<std::string> known, matching;
  for (size_t c = 0; c < contexts_.size(); ++c) {
    const Lowered step = widest_[c];   // widened below
    const size_t first = keys.size();
    std::map<std::string, const KernelSpec*> specs;
    for (const LoweredLaunch& launch : step.launches) {
      const std::string& name = launch.spec.tune_key;
      if (name.empty() || (known.contains(name) && !specs.contains(name))) continue;
      if (known.insert(name).second) {
        if (!glob.empty() && !matches_glob(glob, name)) continue;
        keys.push_back({.name = name, .context = c});
        specs[name] = &launch.spec;
      }
      const auto key = std::find_if(keys.begin(), keys.end(), [&](const TuneKey& k) { return k.name == name; });
      if (key == keys.end()) continue;
      const Cost cost = launch.cost(contexts_[c].depth_tokens + 1);
      ++key->n_launches;
      key->cost.bytes += cost.bytes;
      key->cost.flops += cost.flops;
    }
    std::stable_sort(keys.begin() + static_cast<std::ptrdiff_t>(first), keys.end(),
                     [](const TuneKey& a, const TuneKey& b) { return a.cost.bytes > b.cost.bytes; });
    for (size_t k = first; k < keys.size(); ++k) add_candidates(keys[k], *specs.at(keys[k].name));
  }
  if (keys.empty() && !glob.empty())
    throw Error(ErrorKind::kUsage, fmt::format("--kernels: '{}' matches none of the tunable kernels: {}", glob,
                                               known.empty() ? "there are none" : fmt::format("{}", fmt::join(known, "; "))));
  return keys;
}

void TuneSpace::add_candidates(TuneKey& key, const KernelSpec& default_spec) {
  std::map<std::string, std::string> seen;   // launch -> values of its first candidate
  for (const TuneValues& values : tune_combinations(default_spec)) {
    TuneCandidate candidate = lower_candidate(key, values);
    candidate.is_default = key.candidates.empty();
    if (!candidate.is_pruned()) {
      const auto [it, is_new] = seen.try_emplace(launch_text(candidate.spec), tune_text(values));
      if (!is_new) prune(candidate, PruneReason::kSameKernel, fmt::format("the same kernel and launch as {}", it->second));
      else if (candidate.spec.launch.dynamic_smem_bytes > device_.smem_per_block_bytes)
        prune(candidate, PruneReason::kSharedMemory, fmt::format("{} bytes a block, the card has {}", candidate.spec.launch.dynamic_smem_bytes,
                                                                 device_.smem_per_block_bytes));
    }
    key.candidates.push_back(std::move(candidate));
  }
  if (key.candidates.empty() || key.candidates.front().is_pruned())
    throw Error(ErrorKind::kInternal, fmt::format("{}: its default is no candidate: {}", key.name,
                                                  key.candidates.empty() ? "there are none" : key.candidates.front().why));
}

TuneCandidate TuneSpace::lower_candidate(const TuneKey& key, const TuneValues& values) {
  TuneCandidate candidate{.values = values};
  Tuning tuning;
  tuning.chosen[key.name] = values;
  try {
    const Lowered step = lower(key.context, tuning);
    uint32_t n_launches = 0;
    for (const LoweredLaunch& launch : step.launches) {
      if (launch.spec.tune_key != key.name) continue;
      if (n_launches++ != 0) continue;
      candidate.spec = launch.spec;
      candidate.spec.cost = launch.cost(contexts_[key.context].depth_tokens + 1);   // keys and values too
    }
    Lowered& widest = widest_[key.context];
    if (n_launches != key.n_launches || !is_same_structure(widest, step)) {
      prune(candidate, PruneReason::kInadmissible, "with it the step has other launches or buffers");
      return candidate;
    }
    if (tune_values(candidate.spec) != values) {
      prune(candidate, PruneReason::kInadmissible, fmt::format("the family made it {}", tune_text(tune_values(candidate.spec))));
      return candidate;
    }
    widen(widest, step);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage && error.kind() != ErrorKind::kUnsupported) throw;
    prune(candidate, PruneReason::kInadmissible, error.message());
  }
  return candidate;
}

uint32_t resident_blocks(const DeviceInfo& device, const KernelResources& resources, const LaunchShape& shape) {
  const uint64_t warps = round_up(n_threads(shape), 32) / 32;
  uint64_t n = max_blocks_per_sm(device);
  if (device.max_threads_per_sm != 0) n = std::min<uint64_t>(n, device.max_threads_per_sm / (32 * warps));
  // Registers are given to a warp in steps of 256, shared memory to a block in steps of 128 bytes and with 1 KB for the system.
  const uint64_t warp_registers = round_up(uint64_t{32} * std::max(resources.registers, 1u), 256);
  n = std::min(n, device.regs_per_sm / (warp_registers * warps));
  const uint64_t block_bytes = round_up(uint64_t{resources.static_smem_bytes} + shape.dynamic_smem_bytes + 1024, 128);
  if (device.smem_per_sm_bytes != 0) n = std::min(n, device.smem_per_sm_bytes / block_bytes);
  return static_cast<uint32_t>(n);
}

void prune_compiled(TuneCandidate& candidate, const TuneCandidate& base, const DeviceInfo& device) {
  if (candidate.is_default || candidate.is_pruned()) return;
  const KernelResources& r = candidate.resources;
  const uint32_t smem_bytes = r.static_smem_bytes + candidate.spec.launch.dynamic_smem_bytes;
  if (r.spill_bytes > base.resources.spill_bytes)
    return prune(candidate, PruneReason::kSpills, fmt::format("{} bytes of registers a thread, the default {}", r.spill_bytes, base.resources.spill_bytes));
  if (smem_bytes > device.smem_per_block_bytes)
    return prune(candidate, PruneReason::kSharedMemory, fmt::format("{} bytes a block, the card has {}", smem_bytes, device.smem_per_block_bytes));
  if (candidate.blocks_per_sm == 0)
    return prune(candidate, PruneReason::kNotResident, fmt::format("{} registers x {} threads, {} bytes of shared memory", r.registers,
                                                                   n_threads(candidate.spec.launch), smem_bytes));
  const double us = least_us(candidate, device), base_us = least_us(base, device);
  if (us > kMuchSlower * base_us && us > base_us + kSlowerUs)
    return prune(candidate, PruneReason::kSlowByModel, fmt::format("{} blocks in {} rounds on {} SMs: at least {:.1f} us, the default's {} in {}: {:.1f}",
                                                                   n_blocks(candidate.spec.launch), n_waves(candidate, device), device.n_sms, us,
                                                                   n_blocks(base.spec.launch), n_waves(base, device), base_us));
  double enough = bytes_in_flight(base, device);
  if (device.bandwidth_gb_per_s > 0) enough = std::min(enough, device.bandwidth_gb_per_s * 1e3 * kMemoryLatencyUs);
  if (const double in_flight = bytes_in_flight(candidate, device); in_flight < kLeastInFlight * enough)
    return prune(candidate, PruneReason::kFewInFlight, fmt::format("resident blocks ask for {:.0f} KB at once; the default's, as far as the memory can answer, for {:.0f}",
                                                                   in_flight / 1e3, enough / 1e3));
}

bool matches_glob(std::string_view pattern, std::string_view name) {
  if (pattern.find_first_of("*?") == std::string_view::npos) return name.find(pattern) != std::string_view::npos;
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) ++p, ++n;
    else if (p < pattern.size() && pattern[p] == '*') star = p++, resume = n;
    else if (star != std::string_view::npos) p = star + 1, n = ++resume;
    else return false;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace sj
