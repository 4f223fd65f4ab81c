// The decode stages around the residual stream: decode_router and decode_input.
#include "kernel_src/args/decode_input.h"
#include "kernel_src/args/decode_router.h"
#include "tests/kernel_src/decode_data.h"

namespace sj::test::decode_stream_test {
namespace {

TEST(DecodeRouterSpec, BlocksCoverTheExperts) {
  EXPECT_EQ(decode_router_spec({2048, 128}).launch.grid.x, 128u);
  EXPECT_EQ(decode_router_spec({2048, 256}).launch.grid.x, 128u) << "two rows a block";
  EXPECT_EQ(decode_router_spec({2048, 257}).launch.grid.x, 257u);
}

TEST(DecodeRouterSpec, RefusesWhatItCannotServe) {
  EXPECT_TRUE(is_refused([] { decode_router_spec({8196, 128}); }, "decode_router: 8196 columns are more than 8192"));
  EXPECT_TRUE(is_refused([] { decode_router_spec({2050, 128}); }, "2050"));
  EXPECT_TRUE(is_refused([] { decode_router_spec({2048, 0}); }, "expected 1 to 512 experts, found 0"));
}

TEST(DecodeInputSpec, TakesGroupsOfWholeChunks) {
  EXPECT_EQ(decode_input_spec({576}).launch.grid.x, 36u);
  EXPECT_TRUE(is_refused([] { decode_input_spec({48}); }, "decode_input: 48 rows are not a positive multiple of 32"));
  EXPECT_TRUE(is_refused([] { decode_input_spec({0}); }, "0 rows"));
}

TEST(DecodeStreamCompile, FitsEveryTargetWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  for (const uint32_t n_cols : {576u, 2048u, 8192u})
    for (const uint32_t n_experts : {128u, 512u}) EXPECT_TRUE(compiles_everywhere(decode_router_spec({n_cols, n_experts})));
  EXPECT_TRUE(compiles_everywhere(decode_input_spec({4096})));
}

void check_router(const DecodeRouterParams& p, const Tuning& tuning = {}) {
  const KernelSpec spec = decode_router_spec(p, tuning);
  SCOPED_TRACE(kernel_label(spec));
  KernelRunner gpu;
  const TestMatrix w = random_matrix(DType::kF32, p.n_experts, p.n_cols, 1);
  const std::vector<float> x = random_floats(p.n_cols, 2, 3.0), norm = random_floats(p.n_cols, 3);
  const DecodeRouterArgs args = {.weights = upload_matrix(gpu, w), .norm = gpu.upload(norm), .x = gpu.upload(x), .scores = gpu.alloc<int64_t>(n_score_slots(p.n_experts))};
  gpu.run(spec, args);
  ref::Vec product(p.n_cols);
  for (uint32_t c = 0; c < p.n_cols; ++c) product[c] = double(x[c]) * double(norm[c]);
  // A thread's chain of up to n_cols / 256 products, 5 shuffles, 8 warps, the product with the norm.
  const ref::Vec bound = dot_bound(w, product, double(p.n_cols) / 256 + 4 + 5 + 8);
  EXPECT_TRUE(is_close(score_values(gpu.download(args.scores, n_score_slots(p.n_experts)), p.n_experts), ref::matmul(w.values, product, p.n_experts, p.n_cols), bound));
}

TEST(DecodeRouterDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_router({256, 128});
  check_router({2048, 128});
  check_router({1412, 7});     // neither columns nor rows fill anything
  check_router({1100, 256});   // two rows a block
  check_router({4, 1});
}

TEST(DecodeRouterDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  const DecodeRouterParams p = {1412, 128};
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
}  // namespace sj::test::decode_stream_test
