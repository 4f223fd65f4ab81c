// What the rules of fused decode steps share: reading ops, the forms in which stages hand vectors on, finishing a half layer.
// For runtime/fusion_decode*.cpp only.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "jit/base/error.h"
#include "kernel_src/decode_stages_spec.h"
#include "runtime/generic_ops.h"
#include "runtime/lowering.h"

namespace sj {

/// Fused steps are for one token and int8 activations.
inline bool wants_fused_decode(const LoweringContext& ctx) { return ctx.n_tokens() == 1 && ctx.activations() == ActivationMode::kAuto; }

/// The form of a value that a finishing stage left for the norm with these weights (LoweringContext::find_form).
std::string normed_form(const WeightRef& norm);
/// x as the NormedVec of `norm`: what a stage left, or made of x by a launch of its own.
BufferRef normed_input(LoweringContext& ctx, ValueId x, const RmsNormOp& norm);

/// Where a finishing stage writes y and the input of the norm behind it.
struct Finish {
  BufferRef residual, y, next_norm, next;
};
Finish finish_buffers(LoweringContext& ctx, ValueId residual, ValueId y, const RmsNormOp& next_norm);
/// y = residual + W x, finished for the next norm.
LoweredLaunch finishing_gemv(LoweringContext& ctx, KernelSpec spec, const MatmulOp& matmul, const BufferRef& x, const Finish& to);

/// Reads ops one after the other; `failed` once one is not what was expected.
class Cursor {
 public:
  Cursor(const LoweringContext& ctx, size_t idx) : ctx_(ctx), idx_(idx) {}
  /// The op's parameters when it is of that kind and its first input is `x`.
  template <class Params>
  const Params* take(ValueId x) {
    const Params* params = failed_ ? nullptr : ctx_.find<Params>(idx_);
    if (params == nullptr || ctx_.op(idx_).inputs.empty() || ctx_.op(idx_).inputs[0] != x) {
      failed_ = true;
      return nullptr;
    }
    ++idx_;
    return params;
  }
  /// The same, but the cursor stays and does not fail when the op is another one.
  template <class Params>
  const Params* try_take(ValueId x) {
    const Params* params = failed_ ? nullptr : ctx_.find<Params>(idx_);
    if (params == nullptr || ctx_.op(idx_).inputs[0] != x) return nullptr;
    ++idx_;
    return params;
  }
  ValueId out() const { return failed_ ? kNoValue : ctx_.op(idx_ - 1).outputs.at(0); }
  const Op& last() const { return ctx_.op(idx_ - 1); }
  bool failed() const { return failed_; }
  size_t idx() const { return idx_; }

 private:
  const LoweringContext& ctx_;
  size_t idx_;
  bool failed_ = false;
};

/// Makes a spec; a shape that its family refuses becomes the reason why the rule does not apply.
template <class Make>
std::optional<KernelSpec> try_spec(LoweringContext& ctx, std::string_view rule, Make&& make) {
  try {
    return make();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    ctx.refuse(rule, error.message());
    return std::nullopt;
  }
}

/// Half a layer that ends in x + f(norm(x)): the ops of f are read, the residual and the next norm are still to come.
struct Tail {
  ValueId y = kNoValue;
  const RmsNormOp* next_norm = nullptr;
};
/// Reads "x + f" and the norm behind it; nullopt, with the reason noted, when the half layer ends otherwise.
std::optional<Tail> read_tail(LoweringContext& ctx, std::string_view rule, size_t idx, ValueId x, ValueId f);

bool has_result_scale(std::initializer_list<const MatmulOp*> matmuls);

/// The experts' half of a layer, from its norm to the residual sum.
struct MoeHalf {
  ValueId x = kNoValue;
  const RmsNormOp* norm = nullptr;
  const MatmulOp* router = nullptr;
  const RouteOp* route = nullptr;
  const MoeMatmulOp *gate = nullptr, *up = nullptr, *down = nullptr;
  Tail tail;
  KernelSpec glu_spec, down_spec;
  size_t n_ops = 0;
};
/// nullopt, with the reason noted, where op `idx` does not begin such a half or some stage can't serve it.
std::optional<MoeHalf> read_moe(LoweringContext& ctx, size_t idx);
/// A buffer for the router's scores of the half's input, and the form in which it is known.
BufferRef new_scores(LoweringContext& ctx, const MoeHalf& moe);
std::string scores_form(const MoeHalf& moe);

}  // namespace sj
