// Attention and the KV append that feeds it.
#include "kernel_src/attention_spec.h"

#include "kernel_src/args/attention.h"
#include "kernel_src/args/kv_append.h"
#include "kernel_src/args/step_state.h"
#include "tests/kernel_src/kernel_data.h"
#include "tests/support/kernel_runner.h"

namespace sj::test::attention_test {
namespace {

TEST(AttentionSpec, OneBlockAHeadAndToken) {
  const KernelSpec spec = attention_spec({.n_head = 8, .n_head_kv = 2, .head_dim = 64, .n_tokens = 3, .scale = 0.125f});
  EXPECT_EQ(spec.launch.grid, (Dim3{8, 3, 1}));
}

TEST(AttentionSpec, CostGrowsWithTheContextAndTheKernelDoesNot) {
  AttentionParams p = {.n_head = 8, .n_head_kv = 2, .head_dim = 64};
  const KernelSpec short_ctx = attention_spec(p);
  p.cost_ctx_tokens = 1001;
  const KernelSpec long_ctx = attention_spec(p);
  EXPECT_EQ(long_ctx.cost.bytes - short_ctx.cost.bytes, 1000.0 * 2 * 2 * 64 * 2);
  EXPECT_EQ(baked_header(long_ctx), baked_header(short_ctx));
}

TEST(AttentionSpec, RefusesImpossibleShapes) {
  EXPECT_TRUE(is_refused([] { attention_spec({.n_head = 7, .n_head_kv = 2, .head_dim = 64}); }, "7 query heads"));
  EXPECT_TRUE(is_refused([] { attention_spec({.n_head = 8, .n_head_kv = 2, .head_dim = 60}); }, "head_dim 60"));
  EXPECT_TRUE(is_refused([] { attention_spec({.n_head = 8, .n_head_kv = 2, .head_dim = 520}); }, "head_dim 520"));
  EXPECT_TRUE(is_refused([] { attention_spec({.n_head = 8, .n_head_kv = 2, .head_dim = 64, .page_tokens = 16}); }, "page of 16"));
  EXPECT_TRUE(is_refused([] { kv_append_spec({.n_head_kv = 2, .head_dim = 12}); }, "head_dim 12"));
  EXPECT_TRUE(is_refused([] { kv_append_spec({.n_head_kv = 2, .head_dim = 80, .kv_type = KvType::kQ8_0}); },
                         "kv_append: head_dim 80 is not a multiple of 32, as a q8_0 KV cache wants it; use --kv-type f16"));
  EXPECT_TRUE(is_refused([] { attention_spec({.n_head = 8, .n_head_kv = 2, .head_dim = 80, .kv_type = KvType::kQ8_0}); }, "attention: head_dim 80 is not"));
  EXPECT_TRUE(is_refused([] { kv_append_spec({.n_head_kv = 0, .head_dim = 64}); }, "no heads"));
}

TEST(AttentionCompile, FitsItsTargetsWithoutSpills) {
  SJ_SKIP_WITHOUT_NVRTC();
  for (const uint32_t head_dim : {64u, 80u, 128u, 256u, 512u})
    for (const uint32_t n_tokens : {1u, 64u})
      EXPECT_TRUE(compiles_everywhere(attention_spec({.n_head = 16, .n_head_kv = 2, .head_dim = head_dim, .n_tokens = n_tokens, .scale = 0.1f,
                                                      .window_tokens = head_dim == 256 ? 100u : 0u, .has_sinks = head_dim == 64}),
                                      targets_of(head_dim == 128)));
  for (const uint32_t head_dim : {32u, 64u, 96u, 128u, 256u, 512u})
    for (const uint32_t n_tokens : {1u, 64u})
      EXPECT_TRUE(compiles_everywhere(attention_spec({.n_head = 16, .n_head_kv = 2, .head_dim = head_dim, .n_tokens = n_tokens, .scale = 0.1f,
                                                      .kv_type = KvType::kQ8_0}), targets_of(head_dim == 128)));
  for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0})
    EXPECT_TRUE(compiles_everywhere(kv_append_spec({.n_head_kv = 4, .head_dim = 128, .n_tokens = 3, .kv_type = type})));
}

/// A paged cache whose physical pages lie in another order than the logical ones; unused slots hold half NaNs.
struct Cache {
  std::vector<int32_t> page_table;
  uint16_t *k = nullptr, *v = nullptr;   ///< device
  int32_t* table = nullptr;              ///< device
  std::size_t n_halves = 0;
};

Cache make_cache(KernelRunner& gpu, uint32_t n_pages, uint32_t n_head_kv, uint32_t head_dim) {
  Cache c;
  for (uint32_t i = 0; i < n_pages; ++i) c.page_table.push_back(int32_t((i * 5 + 3) % n_pages));   // a permutation unless 5 divides n_pages
  c.n_halves = std::size_t{n_pages} * n_head_kv * kKvPageTokens * head_dim;
  const std::vector<uint16_t> nan(c.n_halves, 0x7E00);
  c.k = gpu.upload(nan);
  c.v = gpu.upload(nan);
  c.table = gpu.upload(c.page_table);
  return c;
}

void append(KernelRunner& gpu, const Cache& c, const KvAppendParams& p, int32_t position, const std::vector<float>& k, const std::vector<float>& v) {
  gpu.run(kv_append_spec(p), KvAppendArgs{.k = gpu.upload(k), .v = gpu.upload(v), .k_pages = c.k, .v_pages = c.v, .page_table = c.table,
                                          .state = gpu.upload_value(StepState{.position = position, .n_tokens = int32_t(p.n_tokens), .token = 0, .step_idx = 0})});
}

TEST(KvAppendDevice, StoresHalvesAtTheTokensPlaces) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  constexpr uint32_t kHeads = 3, kDim = 40, kTokens = 5;
  const Cache c = make_cache(gpu, 4, kHeads, kDim);
  const std::vector<float> k = random_floats(kTokens * kHeads * kDim, 1), v = random_floats(kTokens * kHeads * kDim, 2, 1000.0);
  append(gpu, c, {.n_head_kv = kHeads, .head_dim = kDim, .n_tokens = kTokens}, 62, k, v);   // crosses from page 0 to page 1
  std::vector<uint16_t> want_k(c.n_halves, 0x7E00), want_v = want_k;
  for (uint32_t t = 0; t < kTokens; ++t)
    for (uint32_t h = 0; h < kHeads; ++h)
      for (uint32_t d = 0; d < kDim; ++d) {
        const uint32_t position = 62 + t;
        const std::size_t page = std::size_t(c.page_table[position / kKvPageTokens]);
        const std::size_t at = ((page * kHeads + h) * kKvPageTokens + position % kKvPageTokens) * kDim + kv_elem_at(kDim, position, d), from = (t * kHeads + h) * kDim + d;
        want_k[at] = float_to_half(k[from]);
        want_v[at] = float_to_half(v[from]);
      }
  EXPECT_EQ(gpu.download(c.k, c.n_halves), want_k);
  EXPECT_EQ(gpu.download(c.v, c.n_halves), want_v);
}

/// The values of the first n_tokens tokens in a q8_0 pool, after checking that they stand for `rows` and that nothing else was
/// written.
ref::Vec stored_q8(KernelRunner& gpu, const Cache& c, const uint16_t* device, const AttentionParams& p, uint32_t n_tokens, const std::vector<float>& rows) {
  const uint32_t n_pages = uint32_t(c.page_table.size());
  Q8Pool got(n_pages, p.n_head_kv, p.head_dim, kKvPageTokens), expected = got;
  got.bytes = gpu.download(reinterpret_cast<const uint8_t*>(device), 2 * c.n_halves);
  for (std::size_t i = 0; i < expected.bytes.size(); ++i) expected.bytes[i] = i % 2 == 0 ? 0x00 : 0x7E;   // make_cache's NaNs
  const ref::Vec want = ref::to_f64(rows);
  ref::Vec values;
  for (uint32_t t = 0; t < n_tokens; ++t)
    for (uint32_t h = 0; h < p.n_head_kv; ++h)
      EXPECT_TRUE(take_q8_row(got, std::size_t(c.page_table[t / kKvPageTokens]), h, t, &want[(std::size_t{t} * p.n_head_kv + h) * p.head_dim], expected, values));
  got.bytes.resize(expected.bytes.size());   // the pool was made for halves
  EXPECT_TRUE(got.bytes == expected.bytes) << "something else was written";
  return values;
}

struct Case {
  AttentionParams params;
  uint32_t n_cached;   ///< tokens before the step
  uint32_t n_valid;
};

void PrintTo(const Case& c, std::ostream* out) { *out << kernel_label(attention_spec(c.params)) << " after " << c.n_cached; }

class AttentionDevice : public ::testing::TestWithParam<Case> {};

TEST_P(AttentionDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  const auto& [p, n_cached, n_valid] = GetParam();
  const uint32_t n_keys = n_cached + n_valid, kv_dim = p.n_head_kv * p.head_dim, q_dim = p.n_head * p.head_dim;
  const bool is_q8 = p.kv_type == KvType::kQ8_0;
  const std::vector<float> q = random_floats(std::size_t{p.n_tokens} * q_dim, 1);
  const std::vector<float> k = random_floats(std::size_t{n_keys} * kv_dim, 2), v = random_floats(std::size_t{n_keys} * kv_dim, 3);
  KernelRunner gpu;
  const Cache c = make_cache(gpu, n_keys / kKvPageTokens + 2, p.n_head_kv, p.head_dim);
  append(gpu, c, {.n_head_kv = p.n_head_kv, .head_dim = p.head_dim, .n_tokens = n_keys, .kv_type = p.kv_type}, 0, k, v);
  const AttentionArgs args = {.q = gpu.upload(q), .k_pages = c.k, .v_pages = c.v, .page_table = c.table, .sinks = nullptr,
                              .y = gpu.alloc<float>(std::size_t{p.n_tokens} * q_dim),
                              .state = gpu.upload_value(StepState{.position = int32_t(n_cached), .n_tokens = int32_t(n_valid), .token = 0, .step_idx = 0})};
  gpu.run(attention_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, std::size_t{p.n_tokens} * q_dim);

  ref::Vec k16 = ref::to_f64(k), v16 = ref::to_f64(v);
  for (double& x : k16) x = ref::round_to_half(x);
  for (double& x : v16) x = ref::round_to_half(x);
  if (is_q8) k16 = stored_q8(gpu, c, c.k, p, n_keys, k), v16 = stored_q8(gpu, c, c.v, p, n_keys, v);
  const ref::Vec want = ref::attention({q.begin(), q.begin() + std::ptrdiff_t{n_valid} * q_dim}, k16, v16, p.n_head, p.n_head_kv, p.head_dim,
                                       double(p.scale), n_cached, p.window_tokens);
  // A score sums head_dim products of |q k| <= 25 in f32, so its error is at most e = (head_dim + 2) * 25 * head_dim * scale
  // roundings in the worst case and about its root in fact; a weight's relative error is e, and each of up to n_keys values
  // |v| < 5 adds a rounding. Random signs: the root of the counts, times 8.
  const double score_error = std::sqrt(double(p.head_dim)) * 25 * double(p.scale) * std::sqrt(double(p.head_dim)) * kRoundF32;
  const double bound = 8 * 5 * (score_error + (std::sqrt(double(n_keys)) + 8) * kRoundF32);
  EXPECT_TRUE(is_close({y.begin(), y.begin() + std::ptrdiff_t{n_valid} * q_dim}, want, 0, bound));
  for (std::size_t i = std::size_t{n_valid} * q_dim; i < y.size(); ++i) ASSERT_EQ(y[i], unwritten()) << i;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionDevice,
    ::testing::Values(Case{{.n_head = 2, .n_head_kv = 2, .head_dim = 64, .scale = 0.125f}, 0, 1},
                      Case{{.n_head = 6, .n_head_kv = 2, .head_dim = 64, .scale = 0.125f}, 31, 1},
                      Case{{.n_head = 4, .n_head_kv = 1, .head_dim = 128, .scale = 0.088f}, 700, 1},
                      Case{{.n_head = 4, .n_head_kv = 2, .head_dim = 64, .n_tokens = 9, .scale = 0.125f}, 60, 7},
                      Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 80, .n_tokens = 2, .scale = 0.11f}, 100, 2},
                      Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 256, .n_tokens = 3, .scale = 0.0625f, .window_tokens = 40}, 90, 3},
                      Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 64, .n_tokens = 3, .scale = 0.125f, .window_tokens = 1}, 5, 3},
                      Case{{.n_head = 2, .n_head_kv = 2, .head_dim = 8, .n_tokens = 40, .scale = 0.35f, .window_tokens = 33}, 0, 40},
                      Case{{.n_head = 1, .n_head_kv = 1, .head_dim = 512, .scale = 1.0f / 22}, 129, 1},
                      Case{{.n_head = 6, .n_head_kv = 2, .head_dim = 64, .scale = 0.125f, .kv_type = KvType::kQ8_0}, 31, 1},
                      Case{{.n_head = 4, .n_head_kv = 1, .head_dim = 128, .scale = 0.088f, .kv_type = KvType::kQ8_0}, 300, 1},
                      Case{{.n_head = 6, .n_head_kv = 3, .head_dim = 96, .n_tokens = 9, .scale = 0.1f, .kv_type = KvType::kQ8_0}, 60, 7},
                      Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 256, .n_tokens = 3, .scale = 0.0625f, .window_tokens = 40, .kv_type = KvType::kQ8_0}, 90, 3},
                      Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 32, .n_tokens = 40, .scale = 0.17f, .kv_type = KvType::kQ8_0}, 0, 40}));

TEST(KvAppendDevice, Q8KeepsZerosNaNsAndTinyNumbersApart) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  const Cache c = make_cache(gpu, 1, 1, 128);
  std::vector<float> k = random_floats(128, 1);
  for (uint32_t d = 0; d < 32; ++d) k[d] = 0, k[32 + d] = 1e-38f;
  k[70] = NAN;
  append(gpu, c, {.n_head_kv = 1, .head_dim = 128, .kv_type = KvType::kQ8_0}, 0, k, k);
  Q8Pool got(1, 1, 128, kKvPageTokens);
  got.bytes = gpu.download(reinterpret_cast<const uint8_t*>(c.k), 2 * c.n_halves);
  for (uint32_t d = 0; d < 64; ++d) EXPECT_EQ(got.value(0, 0, 0, d), 0) << d;
  EXPECT_TRUE(std::isnan(got.scale(0, 0, 0, 64))) << "a NaN must reach the logits, where it is reported";
  EXPECT_NEAR(got.value(0, 0, 0, 100), double(k[100]), 0.02);
}

TEST(AttentionDevice, SinksJoinTheDenominatorOnly) {
  SJ_SKIP_WITHOUT_GPU();
  const AttentionParams p = {.n_head = 2, .n_head_kv = 1, .head_dim = 64, .scale = 0.125f, .has_sinks = true};
  const std::vector<float> q = random_floats(128, 1), k = random_floats(10 * 64, 2), v = random_floats(10 * 64, 3), sinks = {2.0f, -1.0f};
  KernelRunner gpu;
  const Cache c = make_cache(gpu, 1, 1, 64);
  append(gpu, c, {.n_head_kv = 1, .head_dim = 64, .n_tokens = 10}, 0, k, v);
  const AttentionArgs args = {.q = gpu.upload(q), .k_pages = c.k, .v_pages = c.v, .page_table = c.table, .sinks = gpu.upload(sinks),
                              .y = gpu.alloc<float>(128), .state = gpu.upload_value(StepState{.position = 9, .n_tokens = 1, .token = 0, .step_idx = 0})};
  gpu.run(attention_spec(p), args);
  const std::vector<float> y = gpu.download(args.y, 128);
  ref::Vec want;
  for (int h = 0; h < 2; ++h) {
    ref::Vec logits;
    for (int t = 0; t < 10; ++t) {
      double dot = 0;
      for (int d = 0; d < 64; ++d) dot += double(q[std::size_t(h * 64 + d)]) * ref::round_to_half(k[std::size_t(t * 64 + d)]);
      logits.push_back(0.125 * dot);
    }
    logits.push_back(sinks[std::size_t(h)]);
    const ref::Vec weights = ref::softmax(logits);
    for (int d = 0; d < 64; ++d) {
      double sum = 0;
      for (int t = 0; t < 10; ++t) sum += weights[std::size_t(t)] * ref::round_to_half(v[std::size_t(t * 64 + d)]);
      want.push_back(sum);
    }
  }
  EXPECT_TRUE(is_close(y, want, 0, 8 * 5 * (8 * 25 * 0.125 * 8 + 12) * kRoundF32));   // as above
}

}  // namespace
}  // namespace sj::test::attention_test
