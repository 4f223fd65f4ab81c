#include "runtime/cpu/interpreter.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "runtime/cpu/attention.h"
#include "runtime/cpu/cpu_ops.h"
#include "runtime/cpu/step_plan.h"
#include "runtime/cpu/weight_rows.h"

namespace sj {
namespace {

constexpr size_t kMaxPlans = 4;

bool same_rope(const RopeDesc& a, const RopeDesc& b) { return a.n_rot == b.n_rot && a.magnitude == b.magnitude && a.inv_freq == b.inv_freq; }

template <class T>
class TypedInterpreter final : public Interpreter {
 public:
  TypedInterpreter(const GgufFile& file, const ModelDesc& model, ThreadPool& pool, const CpuOptions& options)
      : file_(file), model_(model), ctx_(pool, best_cpu_isa()), cache_(model, options.kv_type, options.max_ctx_tokens),
        max_ctx_tokens_(options.max_ctx_tokens) {
    for (const LayerDesc& layer : model.layers) rope_index(layer.attention.rope);
  }

  void run_step(std::span<const TokenId> tokens, uint32_t first_position, LogitRows which, float* logits) override {
    const Plan& plan = plan_for(uint32_t(tokens.size()), which == LogitRows::kAll);
    if (arena_bytes_ < plan.arena.n_bytes) {
      arena_.reset(new (std::align_val_t{64}) std::byte[plan.arena.n_bytes]);
      arena_bytes_ = plan.arena.n_bytes;
    }
    step_ = {.plan = &plan, .tokens = tokens, .first_position = first_position};
    for (const RopeDesc& rope : ropes_) step_.ropes.push_back(make_rope_table<T>(rope, first_position, uint32_t(tokens.size())));
    for (size_t i = 0; i < plan.graph.ops.size(); ++i) {
      // What follows the last KV append only serves the logits.
      if (which == LogitRows::kNone && i > plan.last_append_idx) return;
      std::visit([&](const auto& params) { run(params, plan.graph.ops[i], plan.bound[i]); }, plan.graph.ops[i].params);
    }
    const T* result = data(plan.graph.logits);
    std::copy(result, result + plan.graph.values[plan.graph.logits].n_elems(), logits);
  }

 private:
  /// What an op needs of the file, looked up once.
  struct BoundOp {
    WeightRows rows;
    const std::vector<T>* vector = nullptr;   ///< norm weight or bias
    const std::vector<T>* scale = nullptr;
    size_t rope_idx = 0;
  };
  struct Plan {
    uint32_t n_tokens = 0;
    bool all_logits = false;
    OpGraph graph;
    CpuArenaPlan arena;
    std::vector<BoundOp> bound;
    size_t last_append_idx = 0;
  };
  struct Step {
    const Plan* plan = nullptr;
    std::span<const TokenId> tokens;
    uint32_t first_position = 0;
    std::vector<RopeTable<T>> ropes;
  };
  struct AlignedDelete {
    void operator()(std::byte* p) const { operator delete[](p, std::align_val_t{64}); }
  };

  uint64_t n_tokens() const { return step_.tokens.size(); }
  const Value& value(ValueId id) const { return step_.plan->graph.values[id]; }
  T* data(ValueId id) { return reinterpret_cast<T*>(arena_.get() + step_.plan->arena.offset_bytes[id]); }
  int32_t* ints(ValueId id) { return reinterpret_cast<int32_t*>(arena_.get() + step_.plan->arena.offset_bytes[id]); }

  void run(const EmbedOp& op, const Op& node, const BoundOp& bound) {
    embed(ctx_, bound.rows, T(op.scale), step_.tokens, data(node.outputs[0]));
  }
  void run(const RmsNormOp& op, const Op& node, const BoundOp& bound) {
    const uint64_t dim = value(node.outputs[0]).shape.back();
    rms_norm(ctx_, bound.vector->data(), T(op.eps), value(node.outputs[0]).n_elems() / dim, dim, data(node.inputs[0]),
             data(node.outputs[0]));
  }
  MatmulExtras<T> extras(const BoundOp& bound) const {
    MatmulExtras<T> e;
    if (bound.vector != nullptr) e.bias = bound.vector->data();
    if (bound.scale != nullptr) e.result_scale = *bound.scale;
    return e;
  }
  void run(const MatmulOp&, const Op& node, const BoundOp& bound) {
    matmul(ctx_, bound.rows, extras(bound), value(node.inputs[0]).n_elems() / bound.rows.n_cols, data(node.inputs[0]),
           data(node.outputs[0]));
  }
  void run(const RopeOp& op, const Op& node, const BoundOp& bound) {
    const Value& x = value(node.inputs[0]);
    rope(ctx_, op.rope, step_.ropes[bound.rope_idx], n_tokens(), x.shape[1], x.shape[2], data(node.inputs[0]),
         data(node.outputs[0]));
  }
  void run(const KvAppendOp& op, const Op& node, const BoundOp&) {
    cache_.append(op.layer_idx, step_.first_position, uint32_t(n_tokens()), data(node.inputs[0]), data(node.inputs[1]));
  }
  void run(const AttentionOp& op, const Op& node, const BoundOp&) {
    attention(ctx_, op, cache_, step_.first_position, uint32_t(n_tokens()), data(node.inputs[0]), data(node.outputs[0]));
  }
  void run(const AddOp&, const Op& node, const BoundOp&) {
    add(value(node.outputs[0]).n_elems(), data(node.inputs[0]), data(node.inputs[1]), data(node.outputs[0]));
  }
  void run(const GluOp& op, const Op& node, const BoundOp&) {
    const Value& y = value(node.outputs[0]);
    glu(ctx_, op.activation, y.n_elems() / y.shape.back(), y.shape.back(), data(node.inputs[0]), data(node.inputs[1]),
        data(node.outputs[0]));
  }
  void run(const RouteOp& op, const Op& node, const BoundOp&) {
    route(op, n_tokens(), data(node.inputs[0]), ints(node.outputs[0]), data(node.outputs[1]));
  }
  void run(const MoeMatmulOp& op, const Op& node, const BoundOp& bound) {
    const uint64_t n_used = value(node.inputs[1]).shape[1];
    const bool x_is_shared = value(node.inputs[0]).shape.size() == 2;
    moe_matmul(ctx_, bound.rows, extras(bound), n_tokens(), n_used, op.weight.n_experts, x_is_shared, data(node.inputs[0]),
               ints(node.inputs[1]), data(node.outputs[0]));
  }
  void run(const MoeCombineOp&, const Op& node, const BoundOp&) {
    const std::vector<uint64_t>& shape = value(node.inputs[0]).shape;
    moe_combine(shape[0], shape[1], shape[2], data(node.inputs[0]), data(node.inputs[1]), data(node.outputs[0]));
  }
  void run(const SoftcapOp& op, const Op& node, const BoundOp&) {
    softcap(T(op.cap), value(node.outputs[0]).n_elems(), data(node.inputs[0]), data(node.outputs[0]));
  }
  void run(const SelectRowsOp&, const Op& node, const BoundOp&) {
    const uint64_t dim = value(node.outputs[0]).shape.back();
    const T* row = data(node.inputs[0]) + (n_tokens() - 1) * dim;
    std::copy(row, row + dim, data(node.outputs[0]));
  }

  const std::vector<T>* vector_of(const WeightRef& ref) {
    const auto [it, is_new] = vectors_.try_emplace({ref.tensor, ref.row_begin});
    if (is_new) it->second = read_weight<T>(file_, ref);
    return &it->second;
  }

  size_t rope_index(const RopeDesc& rope) {
    for (size_t i = 0; i < ropes_.size(); ++i)
      if (same_rope(ropes_[i], rope)) return i;
    ropes_.push_back(rope);
    return ropes_.size() - 1;
  }

  BoundOp bind(const Op& op) {
    BoundOp bound;
    const auto bind_matmul = [&](const auto& m) {
      bound.rows = weight_rows(file_, m.weight);
      if (m.bias) bound.vector = vector_of(*m.bias);
      if (m.result_scale) bound.scale = vector_of(*m.result_scale);
    };
    if (const auto* e = std::get_if<EmbedOp>(&op.params)) bound.rows = weight_rows(file_, e->weight);
    if (const auto* n = std::get_if<RmsNormOp>(&op.params)) bound.vector = vector_of(n->weight);
    if (const auto* m = std::get_if<MatmulOp>(&op.params)) bind_matmul(*m);
    if (const auto* m = std::get_if<MoeMatmulOp>(&op.params)) bind_matmul(*m);
    if (const auto* r = std::get_if<RopeOp>(&op.params)) bound.rope_idx = rope_index(r->rope);
    return bound;
  }

  const Plan& plan_for(uint32_t n_tokens, bool all_logits) {
    const bool all = all_logits && n_tokens > 1;   // one token: the same graph either way
    for (const auto& plan : plans_)
      if (plan->n_tokens == n_tokens && plan->all_logits == all) return *plan;
    auto plan = std::make_unique<Plan>();
    plan->n_tokens = n_tokens;
    plan->all_logits = all;
    plan->graph = build_graph(model_, {.n_tokens = n_tokens, .max_ctx_tokens = max_ctx_tokens_, .all_logits = all});
    plan->arena = plan_cpu_arena(plan->graph, sizeof(T));
    for (size_t i = 0; i < plan->graph.ops.size(); ++i) {
      plan->bound.push_back(bind(plan->graph.ops[i]));
      if (std::holds_alternative<KvAppendOp>(plan->graph.ops[i].params)) plan->last_append_idx = i;
    }
    if (plans_.size() == kMaxPlans) plans_.erase(plans_.begin());
    plans_.push_back(std::move(plan));
    return *plans_.back();
  }

  const GgufFile& file_;
  const ModelDesc& model_;
  CpuContext<T> ctx_;
  KvCache<T> cache_;
  uint32_t max_ctx_tokens_ = 0;
  std::vector<RopeDesc> ropes_;                                          ///< distinct ones
  std::map<std::pair<std::string, uint64_t>, std::vector<T>> vectors_;   ///< by tensor and first row
  std::vector<std::unique_ptr<Plan>> plans_;
  std::unique_ptr<std::byte[], AlignedDelete> arena_;
  uint64_t arena_bytes_ = 0;
  Step step_;
};

}  // namespace

std::unique_ptr<Interpreter> make_interpreter(const GgufFile& file, const ModelDesc& model, ThreadPool& pool,
                                              const CpuOptions& options) {
  if (options.use_double) return std::make_unique<TypedInterpreter<double>>(file, model, pool, options);
  return std::make_unique<TypedInterpreter<float>>(file, model, pool, options);
}

}  // namespace sj
