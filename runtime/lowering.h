// OP GRAPH -> LAUNCHES. Rules look at the ops from the first to the last; the first rule that matches turns one or more of
// them into launches of kernel families. In: graph, model, device. Out: Lowered. Called by the session and inspect.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jit/device_info.h"
#include "jit/tuning.h"
#include "kernel_src/kv_type.h"
#include "models/model_desc.h"
#include "models/op_graph.h"
#include "runtime/lowered.h"
#include "runtime/session.h"

namespace sj {

inline constexpr uint32_t kTokenRingSlots = 256;   ///< decode steps whose tokens the host may still have to read

struct LoweringOptions {
  ActivationMode activations = ActivationMode::kAuto;
  KvType kv_type = KvType::kF16;
  /// Positions that a one-token step has to serve: fused attention is laid out for so many. 0: the whole context.
  uint32_t attend_tokens = 0;
  Tuning tuning = {};
};

/// What a rule sees and writes to. Buffers are made by asking for them; asking twice gives the same buffer.
class LoweringContext {
 public:
  LoweringContext(const OpGraph& graph, const ModelDesc& model, const DeviceInfo& device, const LoweringOptions& options);

  const OpGraph& graph() const { return graph_; }
  const ModelDesc& model() const { return model_; }
  const DeviceInfo& device() const { return device_; }
  ActivationMode activations() const { return options_.activations; }
  const Tuning& tuning() const { return options_.tuning; }
  /// Float32 activations keep the cache in float32, for comparisons.
  KvType kv_type() const { return options_.activations == ActivationMode::kF32 ? KvType::kF32 : options_.kv_type; }
  uint32_t n_tokens() const { return graph_.options.n_tokens; }
  /// Positions to lay the step out for, one of a few sizes (attend_size); asking makes the step one that serves no more than
  /// these, unless it serves the whole context.
  uint32_t attend_tokens();
  /// For the sizes of buffers only. Baked into a kernel it would make one kernel a context length: see lower_all_steps.
  uint32_t max_ctx_tokens() const { return graph_.options.max_ctx_tokens; }

  size_t n_ops() const { return graph_.ops.size(); }
  const Op& op(size_t idx) const { return graph_.ops[idx]; }
  /// The op's parameters when `idx` is in range and the op is of that kind, else null: `ctx.find<MatmulOp>(i + 1)`.
  template <class Params>
  const Params* find(size_t idx) const {
    return idx < n_ops() ? std::get_if<Params>(&graph_.ops[idx].params) : nullptr;
  }
  const Value& graph_value(ValueId id) const { return graph_.values[id]; }
  /// Ops that read the value; the graph's logits have one more reader, the session.
  uint32_t n_uses(ValueId id) const { return n_uses_[id]; }
  /// First dimension: rows that are computed at most.
  uint32_t n_rows(ValueId id) const;
  /// Elements of one row of the value.
  uint32_t row_elems(ValueId id) const;
  /// The layer that "blk.<i>." in the op's name says; -1 without.
  static int layer_of(const Op& op);

  /// The buffer of a graph value; the logits' is state.
  BufferRef value(ValueId id);
  /// A further arena buffer. Lives from the first to the last launch that names it.
  BufferRef new_value(std::string name, uint64_t n_bytes, ValueForm form = ValueForm::kOpaque);
  /// A second form of a value that a fused launch wrote beside it or in its place ("normed:<weight>"); null when there is none.
  const BufferRef* find_form(ValueId id, const std::string& form) const;
  void set_form(ValueId id, const std::string& form, const BufferRef& ref) { forms_[{id, form}] = ref; }
  BufferRef weight(const WeightRef& ref, WeightForm form = WeightForm::kRowRecords);
  /// Device memory that outlives the step; zero when the session starts, or `init`.
  BufferRef state(const std::string& key, uint64_t n_bytes, StateHome home = StateHome::kDevice, std::vector<std::byte> init = {});
  BufferRef step_state();                     ///< StepState
  BufferRef tokens();                         ///< i32 [n_tokens], written by the host before the step
  BufferRef logits();                         ///< f32 [n_logit_rows, n_vocab]
  BufferRef token_ring();                     ///< u64 [kTokenRingSlots], mapped host memory
  BufferRef nan_step();                       ///< u32, mapped host memory
  BufferRef page_table();                     ///< i32 [n_pages]
  BufferRef k_pages(uint32_t layer_idx);      ///< [n_pages][n_head_kv] pages of one head, kv_page_bytes() each
  BufferRef v_pages(uint32_t layer_idx);
  BufferRef rope_table(const RopeDesc& rope); ///< u64 [n_rot / 2], rope_turns()

  /// Appends a launch. An empty label becomes the name of the op that is being lowered; its layer is that op's.
  void emit(LoweredLaunch launch);
  /// Appends make_launch(spec, args, patches).
  template <class Args>
  void launch(KernelSpec spec, const Args& args, std::initializer_list<ArgPatch> patches, std::string label = {}) {
    LoweredLaunch launch = make_launch(std::move(spec), args, patches);
    launch.label = std::move(label);
    emit(std::move(launch));
  }
  LoweredLaunch& last_launch() { return lowered_.launches.back(); }
  size_t n_launches() const { return lowered_.launches.size(); }
  /// A rule's launches sample the next token themselves: no argmax is appended.
  void set_sampled() { has_sampled_ = true; }

  /// Says why a rule does not match although its ops do; kept once a text. Returns 0, so that a rule can `return refuse(...)`.
  size_t refuse(std::string_view rule, std::string_view reason);

 private:
  friend Lowered lower_graph(const OpGraph&, const ModelDesc&, const DeviceInfo&, const LoweringOptions&,
                             std::span<const struct FusionRule>);
  const OpGraph& graph_;
  const ModelDesc& model_;
  const DeviceInfo& device_;
  LoweringOptions options_;
  std::vector<uint32_t> n_uses_;
  std::map<ValueId, BufferRef> values_;
  std::map<std::pair<ValueId, std::string>, BufferRef> forms_;
  std::map<std::string, uint32_t> weight_ids_;
  std::map<std::string, uint32_t> state_ids_;
  std::set<std::string> notes_;
  size_t op_idx_ = 0;
  bool has_sampled_ = false;
  Lowered lowered_;
};

/// Turns ops [op_idx, op_idx + n) into launches and returns n; 0: no match, and nothing was emitted.
struct FusionRule {
  std::string name;
  std::function<size_t(LoweringContext& ctx, size_t op_idx)> apply;
};

/// Fills in the SampleArgs that lie at `args_offset` of the launch's arguments: this launch samples the next token.
void add_sampling(LoweringContext& ctx, LoweredLaunch& launch, size_t args_offset);

/// All rules in the order they are tried; runtime/fusion.cpp lists them. One-op lowering comes after them.
std::span<const FusionRule> fusion_rules();

/// Lowers one op to its generic family; always 1. Throws kUnsupported with the op's name as frame.
size_t lower_one_op(LoweringContext& ctx, size_t op_idx);

/// A plan that keeps only the last token's logits ends with the greedy sampling of the next token.
/// Throws kUnsupported naming the op and what its family can't do.
Lowered lower_graph(const OpGraph& graph, const ModelDesc& model, const DeviceInfo& device, const LoweringOptions& options,
                    std::span<const FusionRule> rules = fusion_rules());

}  // namespace sj
