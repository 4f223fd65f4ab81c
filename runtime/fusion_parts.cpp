#include "runtime/fusion_parts.h"

#include <fmt/format.h>

#include "kernel_src/args/decode_gemv.h"
#include "kernel_src/args/decode_input.h"

namespace sj {
namespace {

/// The norm that reads `x` next, when the op right behind `idx` is one of x: the stage that finishes x prepares its input.
const RmsNormOp* find_next_norm(const LoweringContext& ctx, size_t idx, ValueId x) {
  const RmsNormOp* norm = ctx.find<RmsNormOp>(idx);
  return norm != nullptr && ctx.op(idx).inputs[0] == x ? norm : nullptr;
}

/// The other operand of AddOp `idx` when one is `x`; else kNoValue.
ValueId residual_of(const LoweringContext& ctx, size_t idx, ValueId x) {
  if (ctx.find<AddOp>(idx) == nullptr || ctx.n_uses(x) != 1) return kNoValue;
  const std::vector<ValueId>& inputs = ctx.op(idx).inputs;
  return inputs[0] == x ? inputs[1] : inputs[1] == x ? inputs[0] : kNoValue;
}

}  // namespace

std::string normed_form(const WeightRef& norm) { return "normed:" + norm.tensor; }

BufferRef normed_input(LoweringContext& ctx, ValueId x, const RmsNormOp& norm) {
  const std::string form = normed_form(norm.weight);
  if (const BufferRef* found = ctx.find_form(x, form)) return *found;
  const uint32_t n_rows = ctx.row_elems(x);
  const BufferRef normed = ctx.new_value(fmt::format("{}.normed", ctx.graph_value(x).name), normed_vec_bytes(n_rows), ValueForm::kNormedVec);
  ctx.launch(decode_input_spec({.n_rows = n_rows}), DecodeInputArgs{},
             {{offsetof(DecodeInputArgs, x), ctx.value(x)},
              {offsetof(DecodeInputArgs, next_norm), ctx.weight(norm.weight, WeightForm::kF32)},
              {offsetof(DecodeInputArgs, y), ctx.value(x)},
              {offsetof(DecodeInputArgs, next), normed}},
             fmt::format("{}.quantise", ctx.graph_value(x).name));
  ctx.set_form(x, form, normed);
  return normed;
}

Finish finish_buffers(LoweringContext& ctx, ValueId residual, ValueId y, const RmsNormOp& next_norm) {
  const BufferRef next = ctx.new_value(fmt::format("{}.normed", ctx.graph_value(y).name), normed_vec_bytes(ctx.row_elems(y)),
                                       ValueForm::kNormedVec);
  ctx.set_form(y, normed_form(next_norm.weight), next);
  return {ctx.value(residual), ctx.value(y), ctx.weight(next_norm.weight, WeightForm::kF32), next};
}

LoweredLaunch finishing_gemv(LoweringContext& ctx, KernelSpec spec, const MatmulOp& matmul, const BufferRef& x, const Finish& to) {
  LoweredLaunch launch = make_launch(std::move(spec), DecodeGemvArgs{},
                                     {{offsetof(DecodeGemvArgs, weights), ctx.weight(matmul.weight)},
                                      {offsetof(DecodeGemvArgs, x), x},
                                      {offsetof(DecodeGemvArgs, residual), to.residual},
                                      {offsetof(DecodeGemvArgs, y), to.y},
                                      {offsetof(DecodeGemvArgs, next_norm), to.next_norm},
                                      {offsetof(DecodeGemvArgs, next), to.next}});
  if (matmul.bias) launch.patches.push_back({offsetof(DecodeGemvArgs, bias), ctx.weight(*matmul.bias, WeightForm::kF32)});
  return launch;
}

std::optional<Tail> read_tail(LoweringContext& ctx, std::string_view rule, size_t idx, ValueId x, ValueId f) {
  if (residual_of(ctx, idx, f) != x) {
    ctx.refuse(rule, "the half layer does not end in the residual sum (a norm behind the block?)");
    return std::nullopt;
  }
  const ValueId y = ctx.op(idx).outputs[0];
  const RmsNormOp* next_norm = find_next_norm(ctx, idx + 1, y);
  if (next_norm == nullptr) {
    ctx.refuse(rule, "no norm follows the residual sum");
    return std::nullopt;
  }
  return Tail{y, next_norm};
}

bool has_result_scale(std::initializer_list<const MatmulOp*> matmuls) {
  for (const MatmulOp* m : matmuls)
    if (m->result_scale) return true;
  return false;
}

}  // namespace sj
