// The kernels of one thread four elements: add, glu, softcap, select_rows, moe_combine.
#include "kernel_src/add_spec.h"
#include "kernel_src/args/add.h"
#include "kernel_src/args/glu.h"
#include "kernel_src/args/moe_combine.h"
#include "kernel_src/args/select_rows.h"
#include "kernel_src/args/softcap.h"
#include "kernel_src/args/step_state.h"
#include "kernel_src/glu_spec.h"
#include "kernel_src/moe_combine_spec.h"
#include "kernel_src/select_rows_spec.h"
#include "kernel_src/softcap_spec.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::elementwise_test {
namespace {

constexpr uint32_t kN = 1028, kTokens = 3, kValid = 2;   // more than one block, the last one partly used

const StepState* upload_state(KernelRunner& gpu) {
  return gpu.upload_value(StepState{.position = 5, .n_tokens = kValid, .token = 0, .step_idx = 0});
}

/// The valid tokens' values; the others must be unwritten.
std::vector<float> download_valid(KernelRunner& gpu, const float* y) {
  std::vector<float> all = gpu.download(y, kTokens * kN);
  for (std::size_t i = kValid * kN; i < all.size(); ++i)
    if (all[i] != unwritten()) ADD_FAILURE() << "token past the valid ones written at " << i;
  all.resize(kValid * kN);
  return all;
}

ref::Vec valid(const std::vector<float>& x) { return {x.begin(), x.begin() + kValid * kN}; }

TEST(ElementwiseSpec, CoversEveryElement) {
  for (const KernelSpec& spec : {add_spec({.n_per_token = kN, .n_tokens = kTokens}), glu_spec({.n_per_token = kN, .n_tokens = kTokens}),
                                 softcap_spec({.n_per_token = kN, .n_tokens = kTokens, .cap = 30}),
                                 moe_combine_spec({.n_cols = kN, .n_used = 2, .n_tokens = kTokens})}) {
    EXPECT_GE(spec.launch.grid.x * spec.launch.block.x * 4, kN) << spec.source;
    EXPECT_EQ(spec.launch.grid.y, kTokens) << spec.source;
  }
}

TEST(ElementwiseSpec, CostCountsEveryArrayOnce) {
  EXPECT_EQ(add_spec({.n_per_token = 8, .n_tokens = 2}).cost.bytes, 3 * 4.0 * 16);
  EXPECT_EQ(softcap_spec({.n_per_token = 8, .n_tokens = 2, .cap = 1}).cost.bytes, 2 * 4.0 * 16);
  EXPECT_EQ(select_rows_spec({.n_cols = 8, .n_tokens = 2}).cost.bytes, 2 * 4.0 * 8);
  EXPECT_EQ(moe_combine_spec({.n_cols = 8, .n_used = 4, .n_tokens = 2, .has_residual = true}).cost.bytes, 4.0 * 16 * 6 + 4.0 * 8);
}

TEST(ElementwiseSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { add_spec({.n_per_token = 6}); }, "add: n_per_token 6"));
  EXPECT_TRUE(is_refused([] { add_spec({.n_per_token = 8, .n_tokens = 70000}); }, "found 70000"));
  EXPECT_TRUE(is_refused([] { glu_spec({.n_per_token = 0}); }, "glu: n_per_token 0"));
  EXPECT_TRUE(is_refused([] { glu_spec({.n_per_token = 4, .activation = GluActivation(9)}); }, "unknown activation 9"));
  EXPECT_TRUE(is_refused([] { softcap_spec({.n_per_token = 4, .cap = 0}); }, "positive cap, found 0"));
  EXPECT_TRUE(is_refused([] { select_rows_spec({.n_cols = 2}); }, "select_rows: n_cols 2"));
  EXPECT_TRUE(is_refused([] { moe_combine_spec({.n_cols = 4, .n_used = 33}); }, "found 33"));
}

TEST(ElementwiseCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(compiles_everywhere(add_spec({.n_per_token = kN, .n_tokens = kTokens})));
  EXPECT_TRUE(compiles_everywhere(glu_spec({.n_per_token = kN, .activation = GluActivation::kSilu})));
  EXPECT_TRUE(compiles_everywhere(glu_spec({.n_per_token = kN, .activation = GluActivation::kGeluTanh})));
  EXPECT_TRUE(compiles_everywhere(softcap_spec({.n_per_token = kN, .cap = 30})));
  EXPECT_TRUE(compiles_everywhere(select_rows_spec({.n_cols = kN, .n_tokens = kTokens})));
  EXPECT_TRUE(compiles_everywhere(moe_combine_spec({.n_cols = 2048, .n_used = 8, .n_tokens = kTokens, .has_residual = true})));
}

TEST(ElementwiseDevice, AddIsTheRoundedSum) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  const std::vector<float> a = random_floats(kTokens * kN, 1), b = random_floats(kTokens * kN, 2);
  const AddArgs args = {.a = gpu.upload(a), .b = gpu.upload(b), .y = gpu.alloc<float>(kTokens * kN), .state = upload_state(gpu)};
  gpu.run(add_spec({.n_per_token = kN, .n_tokens = kTokens}), args);
  EXPECT_TRUE(is_close(download_valid(gpu, args.y), ref::add(valid(a), valid(b)), kRoundF32, 0));
}

TEST(ElementwiseDevice, GluMatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  for (const GluActivation activation : {GluActivation::kSilu, GluActivation::kGeluTanh}) {
    KernelRunner gpu;
    std::vector<float> gate = random_floats(kTokens * kN, 1, 4.0);
    const std::vector<float> up = random_floats(kTokens * kN, 2);
    gate[0] = 0, gate[1] = -100, gate[2] = 100, gate[3] = -1e30f, gate[4] = 1e-30f;
    const GluArgs args = {.gate = gpu.upload(gate), .up = gpu.upload(up), .y = gpu.alloc<float>(kTokens * kN), .state = upload_state(gpu)};
    gpu.run(glu_spec({.n_per_token = kN, .n_tokens = kTokens, .activation = activation}), args);
    const bool is_silu = activation == GluActivation::kSilu;
    ref::Vec g = valid(gate), want(g.size()), bound(g.size());
    for (std::size_t i = 0; i < g.size(); ++i) {
      // gelu as g / (1 + e^-2z): the tanh form cancels for negative g.
      const double z = is_silu ? g[i] : 2 * 0.7978845608028654 * g[i] * (1 + 0.044715 * g[i] * g[i]);
      want[i] = g[i] / (1 + std::exp(-z)) * up[i];
      // e^-z: 2 ulp of expf and the relative error |z| 4 u of its argument; 5 more roundings. Results may be subnormal.
      bound[i] = std::fabs(want[i]) * (5 + 4 + 4 * std::min(std::fabs(z), 200.0)) * kRoundF32 + 1e-37;
    }
    EXPECT_TRUE(is_close(download_valid(gpu, args.y), want, bound)) << (is_silu ? "silu" : "gelu");
  }
}

TEST(ElementwiseDevice, SoftcapMatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  std::vector<float> x = random_floats(kTokens * kN, 1, 40.0);
  x[0] = 1e30f, x[1] = -1e30f, x[2] = 0;
  const SoftcapArgs args = {.x = gpu.upload(x), .y = gpu.alloc<float>(kTokens * kN), .state = upload_state(gpu)};
  gpu.run(softcap_spec({.n_per_token = kN, .n_tokens = kTokens, .cap = 30}), args);
  // Division, tanhf (2 ulp), product; tanh never magnifies a relative error.
  EXPECT_TRUE(is_close(download_valid(gpu, args.y), ref::softcap(valid(x), 30), 7 * kRoundF32, 0));
}

TEST(ElementwiseDevice, SelectRowsTakesTheLastValidToken) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  const std::vector<float> x = random_floats(kTokens * kN, 1);
  const SelectRowsArgs args = {.x = gpu.upload(x), .y = gpu.alloc<float>(kN), .state = upload_state(gpu)};
  gpu.run(select_rows_spec({.n_cols = kN, .n_tokens = kTokens}), args);
  EXPECT_EQ(gpu.download(args.y, kN), std::vector<float>(x.begin() + (kValid - 1) * kN, x.begin() + kValid * kN));
}

TEST(ElementwiseDevice, MoeCombineSumsInSlotOrder) {
  SJ_SKIP_WITHOUT_GPU();
  constexpr uint32_t kUsed = 5;
  for (const bool has_residual : {false, true}) {
    KernelRunner gpu;
    const std::vector<float> x = random_floats(kTokens * kUsed * kN, 1), w = random_floats(kTokens * kUsed, 2), r = random_floats(kTokens * kN, 3);
    const MoeCombineArgs args = {.x = gpu.upload(x), .weights = gpu.upload(w), .residual = has_residual ? gpu.upload(r) : nullptr,
                                 .y = gpu.alloc<float>(kTokens * kN), .state = upload_state(gpu)};
    gpu.run(moe_combine_spec({.n_cols = kN, .n_used = kUsed, .n_tokens = kTokens, .has_residual = has_residual}), args);
    ref::Vec want(kValid * kN), bound(want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      const std::size_t t = i / kN;
      for (std::size_t s = 0; s < kUsed; ++s) {
        const double term = double(w[t * kUsed + s]) * x[(t * kUsed + s) * kN + i % kN];
        want[i] += term;
        bound[i] += std::fabs(term);
      }
      want[i] += has_residual ? r[i] : 0;
      bound[i] = kRoundF32 * ((kUsed + 1) * bound[i] + std::fabs(r[i]));
    }
    EXPECT_TRUE(is_close(download_valid(gpu, args.y), want, bound)) << "residual " << has_residual;
  }
}

}  // namespace
}  // namespace sj::test::elementwise_test
