#include "runtime/lowering.h"

#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "jit/base/hash.h"
#include "kernel_src/args/argmax.h"
#include "kernel_src/args/step_state.h"
#include "kernel_src/argmax_spec.h"
#include "kernel_src/rope_spec.h"
#include "runtime/kv_cache.h"
#include "runtime/session_steps.h"

namespace sj {
namespace {

constexpr uint64_t kElemBytes = 4;   // every activation is f32 or i32

/// Greedy sampling on the device: the next step can start without the host.
void lower_argmax(LoweringContext& ctx) {
  LoweredLaunch launch = make_launch(argmax_spec({.n_vocab = ctx.model().n_vocab, .n_ring_slots = kTokenRingSlots}), ArgmaxArgs{},
                                     {{offsetof(ArgmaxArgs, logits), ctx.logits()}});
  add_sampling(ctx, launch, offsetof(ArgmaxArgs, sample));
  launch.label = "argmax";
  ctx.emit(std::move(launch));
  ctx.last_launch().layer = -1;
}

size_t apply_first_match(LoweringContext& ctx, size_t op_idx, std::span<const FusionRule> rules) {
  for (const FusionRule& rule : rules) {
    const size_t n_before = ctx.n_launches();
    const size_t n_ops = rule.apply(ctx, op_idx);
    if (n_ops == 0 && ctx.n_launches() != n_before)
      throw Error(ErrorKind::kInternal, fmt::format("rule {}: emitted launches but reports no match", rule.name));
    if (op_idx + n_ops > ctx.n_ops())
      throw Error(ErrorKind::kInternal, fmt::format("rule {}: consumed {} ops at op {} of {}", rule.name, n_ops, op_idx, ctx.n_ops()));
    if (n_ops != 0) return n_ops;
  }
  return lower_one_op(ctx, op_idx);
}

std::string buffer_text(const Lowered& lowered, const BufferRef& ref) {
  std::string text;
  switch (ref.kind) {
    case BufferKind::kWeight: {
      const WeightUse& use = lowered.weights[ref.id];
      text = fmt::format("weight {}{}", use.ref.tensor, use.form == WeightForm::kF32 ? " f32" : "");
      if (use.ref.row_begin != 0) text += fmt::format(" rows {}..{}", use.ref.row_begin, use.ref.row_begin + use.ref.n_rows);
      break;
    }
    case BufferKind::kValue: text = fmt::format("%{}", ref.id); break;
    case BufferKind::kState: text = fmt::format("state {}", lowered.states[ref.id].key); break;
  }
  if (ref.byte_offset != 0) text += fmt::format(" + {}", ref.byte_offset);
  return text;
}

}  // namespace

LoweringContext::LoweringContext(const OpGraph& graph, const ModelDesc& model, const DeviceInfo& device,
                                 const LoweringOptions& options)
    : graph_(graph), model_(model), device_(device), options_(options), n_uses_(graph.values.size(), 0) {
  for (const Op& op : graph.ops)
    for (ValueId id : op.inputs) ++n_uses_[id];
  if (graph.logits != kNoValue) ++n_uses_[graph.logits];
  lowered_.n_tokens = graph.options.n_tokens;
  lowered_.all_logits = graph.options.all_logits;
}

uint32_t LoweringContext::n_rows(ValueId id) const { return static_cast<uint32_t>(graph_.values[id].shape.front()); }

uint32_t LoweringContext::row_elems(ValueId id) const {
  const Value& value = graph_.values[id];
  return static_cast<uint32_t>(value.n_elems() / value.shape.front());
}

int LoweringContext::layer_of(const Op& op) {
  constexpr std::string_view kPrefix = "blk.";
  int layer = -1;
  if (op.name.starts_with(kPrefix))
    std::from_chars(op.name.data() + kPrefix.size(), op.name.data() + op.name.size(), layer);
  return layer;
}

BufferRef LoweringContext::value(ValueId id) {
  if (id == graph_.logits) return logits();
  const auto found = values_.find(id);
  if (found != values_.end()) return found->second;
  const Value& value = graph_.values[id];
  return values_[id] = new_value(value.name, value.n_elems() * kElemBytes, value.type == ValueType::kI32 ? ValueForm::kI32 : ValueForm::kF32);
}

BufferRef LoweringContext::new_value(std::string name, uint64_t n_bytes, ValueForm form) {
  lowered_.values.push_back({std::move(name), n_bytes, form});
  return {BufferKind::kValue, static_cast<uint32_t>(lowered_.values.size() - 1), 0};
}

uint32_t LoweringContext::attend_tokens() {
  if (options_.attend_tokens == 0 || options_.attend_tokens >= max_ctx_tokens()) return attend_size(max_ctx_tokens());
  return lowered_.attend_tokens = options_.attend_tokens;
}

const BufferRef* LoweringContext::find_form(ValueId id, const std::string& form) const {
  const auto found = forms_.find({id, form});
  return found == forms_.end() ? nullptr : &found->second;
}

BufferRef LoweringContext::weight(const WeightRef& ref, WeightForm form) {
  const std::string key = fmt::format("{}|{}|{}|{}|{}", ref.tensor, ref.row_begin, ref.n_rows, ref.n_cols, static_cast<int>(form));
  const auto [it, is_new] = weight_ids_.try_emplace(key, static_cast<uint32_t>(lowered_.weights.size()));
  if (is_new) lowered_.weights.push_back({ref, form});
  return {BufferKind::kWeight, it->second, 0};
}

BufferRef LoweringContext::state(const std::string& key, uint64_t n_bytes, StateHome home, std::vector<std::byte> init) {
  const auto [it, is_new] = state_ids_.try_emplace(key, static_cast<uint32_t>(lowered_.states.size()));
  if (is_new) {
    lowered_.states.push_back({key, n_bytes, home, std::move(init)});
  } else {
    StateBuffer& buffer = lowered_.states[it->second];
    if (buffer.home != home) throw Error(ErrorKind::kInternal, fmt::format("state {}: asked for in two places", key));
    buffer.n_bytes = std::max(buffer.n_bytes, n_bytes);
  }
  return {BufferKind::kState, it->second, 0};
}

BufferRef LoweringContext::step_state() { return state("step", sizeof(StepState)); }
BufferRef LoweringContext::tokens() { return state("tokens", n_tokens() * kElemBytes); }

BufferRef LoweringContext::logits() {
  return state("logits", graph_.values[graph_.logits].n_elems() * kElemBytes);
}

BufferRef LoweringContext::token_ring() {
  return state("token_ring", kTokenRingSlots * sizeof(uint64_t), StateHome::kMappedHost);
}
BufferRef LoweringContext::nan_step() { return state("nan_step", sizeof(uint32_t), StateHome::kMappedHost); }

BufferRef LoweringContext::page_table() {
  return state("page_table", n_kv_pages(max_ctx_tokens()) * kElemBytes, StateHome::kDevice,
               identity_page_table(max_ctx_tokens()));
}
BufferRef LoweringContext::k_pages(uint32_t layer_idx) {
  return state(fmt::format("kv.k.{}", layer_idx), kv_pool_bytes(model_.layers.at(layer_idx).attention, max_ctx_tokens(), kv_type()));
}
BufferRef LoweringContext::v_pages(uint32_t layer_idx) {
  return state(fmt::format("kv.v.{}", layer_idx), kv_pool_bytes(model_.layers.at(layer_idx).attention, max_ctx_tokens(), kv_type()));
}

BufferRef LoweringContext::rope_table(const RopeDesc& rope) {
  const std::vector<uint64_t> turns = rope_turns(rope.inv_freq);
  std::vector<std::byte> bytes(turns.size() * sizeof(uint64_t));
  std::memcpy(bytes.data(), turns.data(), bytes.size());
  const std::string key = "rope." + to_hex(hash_bytes(bytes)).substr(0, 8);
  const uint64_t n_bytes = bytes.size();
  return state(key, n_bytes, StateHome::kDevice, std::move(bytes));
}

void LoweringContext::emit(LoweredLaunch launch) {
  const Op& op = graph_.ops[std::min(op_idx_, graph_.ops.size() - 1)];
  if (launch.label.empty()) launch.label = op.name;
  launch.layer = layer_of(op);
  lowered_.launches.push_back(std::move(launch));
}

size_t LoweringContext::refuse(std::string_view rule, std::string_view reason) {
  std::string note = fmt::format("{}: {}", rule, reason);
  if (notes_.insert(note).second) lowered_.notes.push_back(std::move(note));
  return 0;
}

void add_sampling(LoweringContext& ctx, LoweredLaunch& launch, size_t args_offset) {
  launch.patches.insert(launch.patches.end(), {{args_offset + offsetof(SampleArgs, scratch), ctx.state("argmax", sizeof(ArgmaxScratch))},
                                               {args_offset + offsetof(SampleArgs, state), ctx.step_state()},
                                               {args_offset + offsetof(SampleArgs, ring), ctx.token_ring()},
                                               {args_offset + offsetof(SampleArgs, nan_step), ctx.nan_step()}});
  ctx.set_sampled();
}

Lowered lower_graph(const OpGraph& graph, const ModelDesc& model, const DeviceInfo& device, const LoweringOptions& options,
                    std::span<const FusionRule> rules) {
  LoweringContext ctx(graph, model, device, options);
  while (ctx.op_idx_ < graph.ops.size()) {
    try {
      ctx.op_idx_ += apply_first_match(ctx, ctx.op_idx_, rules);
    } catch (const Error& error) {
      throw error.with_frame("op " + graph.ops[ctx.op_idx_].name);
    }
  }
  if (!graph.options.all_logits && !ctx.has_sampled_) lower_argmax(ctx);
  return std::move(ctx.lowered_);
}

std::string dump(const Lowered& lowered) {
  std::string text = fmt::format("step of {} tokens, logits of {}: {} launches, {} weights, {} values, {} states\n",
                                 lowered.n_tokens, lowered.all_logits ? "all tokens" : "the last token", lowered.launches.size(),
                                 lowered.weights.size(), lowered.values.size(), lowered.states.size());
  for (const LoweredLaunch& launch : lowered.launches) {
    const LaunchShape& shape = launch.spec.launch;
    text += fmt::format("{:<24} {} grid {},{},{} block {} smem {}{}{}\n", launch.label, kernel_label(launch.spec), shape.grid.x,
                        shape.grid.y, shape.grid.z, shape.block.x * shape.block.y * shape.block.z, shape.dynamic_smem_bytes,
                        launch.pdl ? "" : " no-pdl", launch.spec.is_tuned ? " tuned: " + tune_text(tune_values(launch.spec)) : "");
    for (const ArgPatch& patch : launch.patches)
      text += fmt::format("{:<24}   +{:<3} {}\n", "", patch.args_offset, buffer_text(lowered, patch.ref));
  }
  for (size_t i = 0; i < lowered.values.size(); ++i)
    text += fmt::format("%{} {} {} bytes\n", i, lowered.values[i].name, lowered.values[i].n_bytes);
  for (const StateBuffer& state : lowered.states)
    text += fmt::format("state {} {} bytes{}\n", state.key, state.n_bytes, state.home == StateHome::kMappedHost ? " on the host" : "");
  for (const std::string& note : lowered.notes) text += fmt::format("note {}\n", note);
  return text;
}

}  // namespace sj
