// The decode stages around the residual stream: decode_router and decode_input.
#include "kernel_src/args/decode_input.h"
#include "kernel_src/args/decode_router.h"
#include "tests/kernel_src/decode_data.h"

namespace sj::test {
namespace {

TEST(DecodeRouterSpec, BlocksCoverTheExperts) {
  EXPECT_EQ(decode_router_spec({2048, 128, 1e-6f}).launch.grid.x, 128u);
  EXPECT_EQ(decode_router_spec({2048, 256, 1e-6f}).launch.grid.x, 128u) << "two rows a block";
  EXPECT_EQ(decode_router_spec({2048, 257, 1e-6f}).launch.grid.x, 257u);
}

TEST(DecodeRouterSpec, RefusesWhatItCannotServe) {
  EXPECT_TRUE(is_refused([] { decode_router_spec({8196, 128, 1e-6f}); }, "decode_router: 8196 columns are more than 8192"));
  EXPECT_TRUE(is_refused([] { decode_router_spec({2050, 128, 1e-6f}); }, "2050"));
  EXPECT_TRUE(is_refused([] { decode_router_spec({2048, 0, 1e-6f}); }, "no experts"));
}

TEST(DecodeInputSpec, TakesGroupsOfWholeChunks) {
  EXPECT_EQ(decode_input_spec({576}).launch.grid.x, 36u);
  EXPECT_TRUE(is_refused([] { decode_input_spec({48}); }, "decode_input: 48 rows are not a positive multiple of 32"));
  EXPECT_TRUE(is_refused([] { decode_input_spec({0}); }, "0 rows"));
}

TEST(DecodeStreamCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  for (const uint32_t n_cols : {576u, 2048u, 8192u})
    for (const uint32_t n_experts : {128u, 512u}) EXPECT_TRUE(compiles_everywhere(decode_router_spec({n_cols, n_experts, 1e-6f})));
  EXPECT_TRUE(compiles_everywhere(decode_input_spec({4096})));
}

void check_router(const DecodeRouterParams& p, const Tuning& tuning = {}) {
  const KernelSpec spec = decode_router_spec(p, tuning);
  SCOPED_TRACE(kernel_label(spec));
  KernelRunner gpu;
  const TestMatrix w = random_matrix(DType::kF32, p.n_experts, p.n_cols, 1);
  const std::vector<float> x = random_floats(p.n_cols, 2, 3.0), norm = random_floats(p.n_cols, 3);
  const DecodeRouterArgs args = {.weights = upload_matrix(gpu, w), .norm = gpu.upload(norm), .x = gpu.upload(x), .logits = gpu.alloc<float>(p.n_experts)};
  gpu.run(spec, args);
  const ref::Vec normed = ref::rmsnorm(ref::to_f64(x), ref::to_f64(norm), p.n_cols, double(p.eps));
  // A thread's chain of up to n_cols / 256 products, 5 shuffles, 8 warps, the product with the norm; 1 / rms.
  const ref::Vec bound = dot_bound(w, normed, double(p.n_cols) / 256 + 4 + 5 + 8 + rms_roundings(p.n_cols));
  EXPECT_TRUE(is_close(gpu.download(args.logits, p.n_experts), ref::matmul(w.values, normed, p.n_experts, p.n_cols), bound));
}

TEST(DecodeRouterDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_router({256, 128, 1e-6f});
  check_router({2048, 128, 1e-6f});
  check_router({1412, 7, 1e-5f});    // neither columns nor rows fill anything
  check_router({1100, 256, 0.5f});   // two rows a block, an eps that counts
  check_router({4, 1, 1e-5f});
}

TEST(DecodeRouterDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  const DecodeRouterParams p = {1412, 128, 1e-6f};
  with_extreme_tunings(decode_router_spec(p), [&](const Tuning& tuning) { check_router(p, tuning); });
}

TEST(DecodeInputDevice, QuantisesTheStreamForTheNextNormAndCopiesIt) {
  SJ_SKIP_WITHOUT_GPU();
  for (const uint32_t n_rows : {32u, 576u}) {
    KernelRunner gpu;
    std::vector<float> x = random_floats(n_rows, 1, 20.0);
    for (std::size_t i = 0; i < 16; ++i) x[i] = 0;   // a group of zeros has scale 0
    const std::vector<float> norm = random_floats(n_rows, 2);
    const DecodeInputArgs args = {.x = gpu.upload(x), .next_norm = gpu.upload(norm), .y = gpu.alloc<float>(n_rows), .next = gpu.alloc<uint8_t>(normed_vec_bytes(n_rows))};
    gpu.run(decode_input_spec({n_rows}), args);
    const std::vector<uint8_t> next = gpu.download(static_cast<const uint8_t*>(args.next), normed_vec_bytes(n_rows));
    EXPECT_EQ(gpu.download(args.y, n_rows), x);
    EXPECT_TRUE(is_finished(x, next, ref::to_f64(x), ref::Vec(n_rows, 0.0), norm));
    std::vector<uint8_t> quants(next.begin(), next.begin() + std::ptrdiff_t(quant_vec_bytes(n_rows)));
    std::vector<float> scaled(n_rows);
    for (uint32_t i = 0; i < n_rows; ++i) scaled[i] = x[i] * norm[i];
    EXPECT_EQ(quants, quantise(scaled).bytes) << "bit for bit as the host quantises";
  }
}

TEST(DecodeInputDevice, WorksInPlace) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  const std::vector<float> x = random_floats(64, 1), norm = random_floats(64, 2);
  float* stream = gpu.upload(x);
  const DecodeInputArgs args = {.x = stream, .next_norm = gpu.upload(norm), .y = stream, .next = gpu.alloc<uint8_t>(normed_vec_bytes(64))};
  gpu.run(decode_input_spec({64}), args);
  EXPECT_EQ(gpu.download(stream, 64), x);
}

}  // namespace
}  // namespace sj::test
