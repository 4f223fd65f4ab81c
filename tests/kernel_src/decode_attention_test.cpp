// decode_attention: per-head norm, rotation, append and attention of one token, with quantised output.
#include "kernel_src/args/decode_attention.h"
#include "kernel_src/args/step_state.h"
#include "kernel_src/kv_append_spec.h"
#include "kernel_src/rope_spec.h"
#include "tests/kernel_src/decode_data.h"

namespace sj::test::decode_attention_test {
namespace {

constexpr DecodeAttentionParams kPlain = {.n_head = 8, .n_head_kv = 2, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .max_tokens = 256};

TEST(DecodeAttentionSpec, SplitsSlicesOverBlocksOfEveryHeadGroup) {
  const DeviceInfo device = require_device_profile("rtx5090");
  DecodeAttentionParams p = kPlain;
  const KernelSpec small = decode_attention_spec(p, device);
  EXPECT_EQ(small.launch.grid, (Dim3{1, 2, 1})) << "16 slices for 12 warps, 2 KV heads of 4 query heads";
  EXPECT_EQ(baked_int(small, "kGroups"), 1);
  EXPECT_EQ(baked_int(small, "kCluster"), 1) << "clusters are used on 9.x only";
  EXPECT_EQ(baked_int(small, "kWarps"), 12);
  p.n_head = 32, p.max_tokens = 100000;
  const KernelSpec large = decode_attention_spec(p, device);
  EXPECT_EQ(large.launch.grid.y, 4u) << "16 query heads of a KV head are two groups of 8";
  EXPECT_EQ(baked_int(large, "kGroups"), 31) << "three blocks for four of 170 SMs, 4 head groups";
  EXPECT_EQ(baked_int(large, "kWarps"), 12);
  EXPECT_EQ(baked_int(large, "kSlots"), 1) << "slices of 4 KB";
  EXPECT_EQ(decode_attention_partial_bytes(large), 4u * 31 * 8 * (64 + 4) * 4);
  EXPECT_EQ(decode_attention_counter_bytes(large), 4u * 8 * 4);
}

TEST(DecodeAttentionSpec, ClustersOnHopper) {
  const KernelSpec spec = decode_attention_spec(kPlain, require_device_profile("h200"));
  EXPECT_EQ(baked_int(spec, "kCluster"), 4);
  EXPECT_EQ(baked_int(spec, "kGroups"), 1);
  EXPECT_EQ(decode_attention_partial_bytes(spec), 16u) << "no partial results leave the cluster";
}

TEST(DecodeAttentionSpec, WindowNeedsNoMoreSplitsThanSlicesItTouches) {
  DecodeAttentionParams p = kPlain;
  p.max_tokens = 8192, p.window_tokens = 200;
  const KernelSpec spec = decode_attention_spec(p, require_device_profile("rtx5090"));
  EXPECT_EQ(spec.launch.grid, (Dim3{1, 2, 1})) << "200 tokens touch fourteen slices of 16 at most";
  EXPECT_EQ(baked_int(spec, "kWarps"), 12);
}

TEST(DecodeAttentionSpec, PartsOfWideHeadsHaveWarpsOfTheirOwn) {
  DecodeAttentionParams p = kPlain;
  p.head_dim = 512;
  const KernelSpec spec = decode_attention_spec(p, require_device_profile("h200"));
  EXPECT_EQ(baked_int(spec, "kDimParts"), 4);
  EXPECT_EQ(baked_int(spec, "kWarps") % 4, 0);
}

TEST(DecodeAttentionSpec, SlicesOfQ8TakeHalfTheRoom) {
  DecodeAttentionParams p = kPlain;
  p.head_dim = 128, p.max_tokens = 100000;
  const DeviceInfo device = require_device_profile("h200");
  const KernelSpec halves = decode_attention_spec(p, device);
  p.kv_type = KvType::kQ8_0;
  const KernelSpec quants = decode_attention_spec(p, device);
  EXPECT_EQ(halves.launch.dynamic_smem_bytes, 12u * 1 * 2 * 16 * 256);
  EXPECT_EQ(quants.launch.dynamic_smem_bytes, 11u * 2 * 2 * 16 * 136) << "two slots a warp";
  p.head_dim = 64;
  EXPECT_EQ(decode_attention_spec(p, device).launch.dynamic_smem_bytes % (32 * (64 + 8)), 0u) << "a warp's o takes more than a slice";
}

TEST(DecodeAttentionSpec, RefusesWhatItCannotServe) {
  const auto make = [](auto change) {
    return [change] {
      DecodeAttentionParams p = kPlain;
      change(p);
      decode_attention_spec(p, require_device_profile("rtx5090"));
    };
  };
  EXPECT_TRUE(is_refused(make([](auto& p) { p.n_head = 7; }), "decode_attention: 7 heads are not a multiple of 2 KV heads"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.n_head_kv = 0; }), "0 KV heads"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.head_dim = 80; }), "head dim 80 is not 64, 96, 128, 256 or 512"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.n_rot = 33; }), "33 rotated dims of 64"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.n_rot = 66; }), "66 rotated dims of 64"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.max_tokens = 0; }), "no tokens"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.kv_type = KvType::kF32; }), "a float32 KV cache"));
  EXPECT_TRUE(is_refused(make([](auto& p) { p.n_head = 24; }), "12 heads a KV head are neither up to 8 nor a multiple of 8"));
}

class DecodeAttentionCompile : public ::testing::TestWithParam<DecodeAttentionParams> {};
TEST_P(DecodeAttentionCompile, FitsEveryCard) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(fits_profiled_devices([](const DeviceInfo& device) { return decode_attention_spec(GetParam(), device); }));
}
TEST_P(DecodeAttentionCompile, FitsCardsOfBothKindsOverAQ8Cache) {
  SJ_SKIP_WITHOUT_NVRTC();
  DecodeAttentionParams p = GetParam();
  p.kv_type = KvType::kQ8_0;
  EXPECT_TRUE(fits_devices({require_device_profile("h200"), require_device_profile("rtx5090")},
                           [&](const DeviceInfo& device) { return decode_attention_spec(p, device); }));
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, DecodeAttentionCompile,
    ::testing::Values(
        DecodeAttentionParams{.n_head = 32, .n_head_kv = 4, .head_dim = 128, .n_rot = 128, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.088f, .max_tokens = 4096},
        DecodeAttentionParams{.n_head = 32, .n_head_kv = 8, .head_dim = 128, .n_rot = 128, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.088f, .max_tokens = 32768},
        DecodeAttentionParams{.n_head = 9, .n_head_kv = 3, .head_dim = 64, .n_rot = 64, .is_interleaved = true, .scale = 0.125f, .max_tokens = 2048},
        DecodeAttentionParams{.n_head = 28, .n_head_kv = 4, .head_dim = 128, .n_rot = 64, .scale = 0.088f, .magnitude = 1.2f, .max_tokens = 64},
        DecodeAttentionParams{.n_head = 4, .n_head_kv = 1, .head_dim = 256, .n_rot = 256, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.0625f, .window_tokens = 512,
                              .max_tokens = 8192},
        DecodeAttentionParams{.n_head = 32, .n_head_kv = 32, .head_dim = 96, .n_rot = 96, .scale = 0.102f, .max_tokens = 4096},
        DecodeAttentionParams{.n_head = 8, .n_head_kv = 2, .head_dim = 512, .n_rot = 128, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.044f, .max_tokens = 8192},
        DecodeAttentionParams{.n_head = 64, .n_head_kv = 4, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .max_tokens = 131072}),
    [](const auto& info) { return fmt::format("h{}kv{}d{}ctx{}", info.param.n_head, info.param.n_head_kv, info.param.head_dim, info.param.max_tokens); });

struct Case {
  DecodeAttentionParams params;
  std::vector<uint32_t> positions;
  uint32_t n_sms = 0;   ///< of the card that the spec is made for; 0: this one
};
void PrintTo(const Case& c, std::ostream* out) { *out << kernel_label(decode_attention_spec(c.params, with_sms(require_device_profile("rtx5090"), c.n_sms == 0 ? 170 : c.n_sms))); }

/// f16 cache of one layer: random rows before `position`, NaN at and behind it and in unused pages.
struct Cache {
  std::vector<int32_t> table;
  std::vector<uint16_t> k, v;
  ref::Vec k_rows, v_rows;   ///< [position, n_head_kv, head_dim], as stored

  std::size_t at(const DecodeAttentionParams& p, uint32_t token, uint32_t kv) const {
    return ((std::size_t(table[token / kKvPageTokens]) * p.n_head_kv + kv) * kKvPageTokens + token % kKvPageTokens) * p.head_dim;
  }
};

Cache make_cache(const DecodeAttentionParams& p, uint32_t position) {
  Cache c;
  const uint32_t n_pages = (p.max_tokens + kKvPageTokens - 1) / kKvPageTokens;
  for (uint32_t i = 0; i < n_pages; ++i) c.table.push_back(int32_t(n_pages - 1 - i));
  if (n_pages > 2) std::swap(c.table[0], c.table[1]);
  c.k.assign(std::size_t{n_pages} * p.n_head_kv * kKvPageTokens * p.head_dim, 0x7E00);
  c.v = c.k;
  const std::size_t kv_dim = std::size_t{p.n_head_kv} * p.head_dim;
  const std::vector<float> k = random_floats(position * kv_dim, 11), v = random_floats(position * kv_dim, 12);
  for (uint32_t t = 0; t < position; ++t)
    for (uint32_t h = 0; h < p.n_head_kv; ++h)
      for (uint32_t d = 0; d < p.head_dim; ++d) {
        const std::size_t from = t * kv_dim + h * p.head_dim + d, to = c.at(p, t, h) + kv_elem_at(p.head_dim, t, d);
        c.k[to] = float_to_half(k[from]), c.v[to] = float_to_half(v[from]);
        c.k_rows.push_back(ref::round_to_half(double(k[from]))), c.v_rows.push_back(ref::round_to_half(double(v[from])));
      }
  return c;
}

/// The new token's row of `pages` must be `want` to within a half's rounding of a float within 2^-20; nothing else may change.
/// Returns the row as stored.
ref::Vec check_appended(const DecodeAttentionParams& p, const Cache& c, uint32_t position, std::vector<uint16_t> before, const std::vector<uint16_t>& pages,
                        const ref::Vec& want) {
  ref::Vec row;
  double worst = 0;
  for (uint32_t h = 0; h < p.n_head_kv; ++h)
    for (uint32_t d = 0; d < p.head_dim; ++d) {
      const std::size_t at = c.at(p, position, h) + kv_elem_at(p.head_dim, position, d);
      const double w = want[h * p.head_dim + d], got = half_value(pages[at]);
      worst = std::max(worst, std::isnan(got) ? INFINITY : std::fabs(got - w) / (0x1p-11 * std::fabs(w) + 0x1p-18));
      before[at] = pages[at];
      row.push_back(got);
    }
  EXPECT_LE(worst, 1) << "an appended value is off";
  EXPECT_TRUE(before == pages) << "a row of another token changed";
  return row;
}

/// The same for a q8_0 cache.
struct Q8Cache {
  std::vector<int32_t> table;
  Q8Pool k, v;
  ref::Vec k_rows, v_rows;   ///< [position, n_head_kv, head_dim], the halves that the kernel takes
};

Q8Cache make_q8_cache(const DecodeAttentionParams& p, uint32_t position) {
  const std::vector<int32_t> table = make_cache(p, 0).table;
  Q8Cache c{table, Q8Pool(uint32_t(table.size()), p.n_head_kv, p.head_dim, kKvPageTokens), Q8Pool(uint32_t(table.size()), p.n_head_kv, p.head_dim, kKvPageTokens), {}, {}};
  const std::vector<float> k = random_floats(std::size_t{position} * p.n_head_kv * p.head_dim, 11), v = random_floats(k.size(), 12);
  for (uint32_t t = 0; t < position; ++t)
    for (uint32_t h = 0; h < p.n_head_kv; ++h) {
      const std::size_t page = std::size_t(table[t / kKvPageTokens]), from = (std::size_t{t} * p.n_head_kv + h) * p.head_dim;
      c.k.store(page, h, t, &k[from]), c.v.store(page, h, t, &v[from]);
      for (uint32_t d = 0; d < p.head_dim; ++d) c.k_rows.push_back(c.k.value(page, h, t, d)), c.v_rows.push_back(c.v.value(page, h, t, d));
    }
  return c;
}

/// As check_appended.
ref::Vec check_appended(const DecodeAttentionParams& p, const Q8Cache& c, uint32_t position, Q8Pool before, const std::vector<uint8_t>& pages, const ref::Vec& want) {
  Q8Pool got = before;
  got.bytes = pages;
  ref::Vec row;
  for (uint32_t h = 0; h < p.n_head_kv; ++h)
    EXPECT_TRUE(take_q8_row(got, std::size_t(c.table[position / kKvPageTokens]), h, position, &want[h * p.head_dim], before, row));
  EXPECT_TRUE(before.bytes == pages) << "a row of another token changed";
  return row;
}

std::vector<uint16_t>& pool_of(std::vector<uint16_t>& pool) { return pool; }
std::vector<uint8_t>& pool_of(Q8Pool& pool) { return pool.bytes; }

template <class AnyCache>
void check_position(KernelRunner& gpu, const KernelSpec& spec, const DecodeAttentionParams& p, uint32_t position, AnyCache c) {
  SCOPED_TRACE(fmt::format("position {}", position));
  const uint32_t q_dim = p.n_head * p.head_dim, kv_dim = p.n_head_kv * p.head_dim;
  const std::vector<float> qkv = random_floats(q_dim + 2 * kv_dim, 1 + position), q_norm = random_floats(p.head_dim, 2), k_norm = random_floats(p.head_dim, 3);
  const std::vector<double> inv_freq = ref::rope_inv_freq(p.n_rot, 1e4);
  const std::size_t n_counters = decode_attention_counter_bytes(spec) / 4;
  const DecodeAttentionArgs args = {
      .qkv = gpu.upload(qkv), .q_norm = p.has_qk_norm ? gpu.upload(q_norm) : nullptr, .k_norm = p.has_qk_norm ? gpu.upload(k_norm) : nullptr,
      .turns = gpu.upload(rope_turns(inv_freq)), .k_pages = reinterpret_cast<uint16_t*>(gpu.upload(pool_of(c.k))),
      .v_pages = reinterpret_cast<uint16_t*>(gpu.upload(pool_of(c.v))), .page_table = gpu.upload(c.table),
      .state = gpu.upload_value(StepState{.position = int32_t(position), .n_tokens = 1, .token = 0, .step_idx = 0}),
      .partial = reinterpret_cast<float*>(gpu.alloc<uint8_t>(decode_attention_partial_bytes(spec))),
      .n_arrived = gpu.upload(std::vector<uint32_t>(n_counters, 0)), .out = gpu.alloc<uint8_t>(quant_vec_bytes(q_dim)),
      .n_table_pages = uint32_t(c.table.size())};
  const auto* out = static_cast<const uint8_t*>(args.out);
  gpu.run(spec, args);
  const std::vector<uint8_t> first = gpu.download(out, quant_vec_bytes(q_dim));
  EXPECT_EQ(gpu.download(args.n_arrived, n_counters), std::vector<uint32_t>(n_counters, 0)) << "the next launch needs zeros";

  const auto prepared = [&](std::size_t from, std::size_t n_heads, const std::vector<float>& norm) {
    ref::Vec x(qkv.begin() + std::ptrdiff_t(from), qkv.begin() + std::ptrdiff_t(from + n_heads * p.head_dim));
    if (p.has_qk_norm) x = ref::rmsnorm(x, ref::to_f64(norm), p.head_dim, double(p.eps));
    return ref::rope(x, {int(position)}, n_heads, p.head_dim, inv_freq, p.is_interleaved, double(p.magnitude));
  };
  const ref::Vec q = prepared(0, p.n_head, q_norm), k = prepared(q_dim, p.n_head_kv, k_norm), v(qkv.end() - kv_dim, qkv.end());
  const auto download_pool = [&](const uint16_t* pages, auto& pool) {
    return gpu.download(reinterpret_cast<const typename std::decay_t<decltype(pool_of(pool))>::value_type*>(pages), pool_of(pool).size());
  };
  const ref::Vec k_row = check_appended(p, c, position, c.k, download_pool(args.k_pages, c.k), k);
  const ref::Vec v_row = check_appended(p, c, position, c.v, download_pool(args.v_pages, c.v), v);
  c.k_rows.insert(c.k_rows.end(), k_row.begin(), k_row.end());
  c.v_rows.insert(c.v_rows.end(), v_row.begin(), v_row.end());
  const ref::Vec want = ref::attention(q, c.k_rows, c.v_rows, p.n_head, p.n_head_kv, p.head_dim, double(p.scale), position, p.window_tokens);
  // q is known to 2^-20 (sine and cosine 2^-22, norm, two halves 2^-22). Products q k have a deviation of about 1 (3 with random
  // norm weights) and errors of either sign, so a score is off by 4 sqrt(head_dim) * scale * 2^-20 at four deviations; a weight's
  // relative error is that and exp2's 2^-21, of values |v| < 4.
  const double score_error = 4 * std::sqrt(double(p.head_dim)) * double(p.scale) * double(p.magnitude) * (p.has_qk_norm ? 3 : 1) * 0x1p-20;
  EXPECT_TRUE(is_quantised_from(first, want, ref::Vec(q_dim, 4 * (score_error + 0x1p-21))));

  gpu.run(spec, args);   // the same step again: the cache holds the token's row already, which is not read
  EXPECT_EQ(gpu.download(out, quant_vec_bytes(q_dim)), first);
}

class DecodeAttentionDevice : public ::testing::TestWithParam<Case> {};
TEST_P(DecodeAttentionDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  const Case& c = GetParam();
  KernelRunner gpu;
  const KernelSpec spec = decode_attention_spec(c.params, with_sms(gpu.device(), c.n_sms == 0 ? gpu.device().n_sms : c.n_sms));
  SCOPED_TRACE(kernel_label(spec));
  for (const uint32_t position : c.positions) check_position(gpu, spec, c.params, position, make_cache(c.params, position));
}

/// Halves are made of whatever the cache holds, so the bounds are the same.
TEST_P(DecodeAttentionDevice, MatchesF64OverAQ8Cache) {
  SJ_SKIP_WITHOUT_GPU();
  Case c = GetParam();
  c.params.kv_type = KvType::kQ8_0;
  KernelRunner gpu;
  const KernelSpec spec = decode_attention_spec(c.params, with_sms(gpu.device(), c.n_sms == 0 ? gpu.device().n_sms : c.n_sms));
  SCOPED_TRACE(kernel_label(spec));
  for (const uint32_t position : c.positions) check_position(gpu, spec, c.params, position, make_q8_cache(c.params, position));
}

const std::vector<uint32_t> kPageEdges = {0, 1, 63, 64, 127, 200, 255};
INSTANTIATE_TEST_SUITE_P(
    Shapes, DecodeAttentionDevice,
    ::testing::Values(
        // A slice or two a warp in one block, or in one cluster.
        Case{{.n_head = 2, .n_head_kv = 2, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .max_tokens = 256}, kPageEdges},
        Case{{.n_head = 9, .n_head_kv = 3, .head_dim = 64, .n_rot = 64, .is_interleaved = true, .scale = 0.125f, .max_tokens = 256}, kPageEdges},
        Case{{.n_head = 8, .n_head_kv = 2, .head_dim = 128, .n_rot = 128, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.088f, .max_tokens = 256}, kPageEdges},
        Case{{.n_head = 6, .n_head_kv = 3, .head_dim = 96, .n_rot = 96, .scale = 0.102f, .max_tokens = 256}, {0, 15, 16, 100, 255}},
        // Splits that are joined through memory.
        Case{{.n_head = 8, .n_head_kv = 1, .head_dim = 128, .n_rot = 64, .scale = 0.088f, .magnitude = 1.25f, .max_tokens = 2048}, {0, 130, 511, 1203, 2047}},
        // One split, whose slots are used many times over.
        Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 64, .n_rot = 32, .is_interleaved = true, .has_qk_norm = true, .eps = 1e-5f, .scale = 0.125f, .max_tokens = 6144},
             {0, 64, 447, 4000, 6143}, 1},
        Case{{.n_head = 4, .n_head_kv = 1, .head_dim = 256, .n_rot = 256, .scale = 0.0625f, .max_tokens = 1280}, {0, 63, 64, 319, 1279}, 1},
        // Four warps share a slice.
        Case{{.n_head = 4, .n_head_kv = 1, .head_dim = 512, .n_rot = 128, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.044f, .max_tokens = 640}, {0, 15, 16, 200, 639}},
        // Two head groups of one KV head; three splits.
        Case{{.n_head = 16, .n_head_kv = 1, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .max_tokens = 1500}, {0, 127, 128, 300, 1499}, 4},
        // Windows that begin inside a page, at its edge and before the first token.
        Case{{.n_head = 4, .n_head_kv = 2, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .window_tokens = 100, .max_tokens = 512}, {0, 99, 100, 163, 164, 400, 511}},
        Case{{.n_head = 4, .n_head_kv = 1, .head_dim = 256, .n_rot = 64, .has_qk_norm = true, .eps = 1e-6f, .scale = 0.0625f, .window_tokens = 64, .max_tokens = 512},
             {62, 63, 64, 191, 300}, 1},
        Case{{.n_head = 3, .n_head_kv = 3, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .window_tokens = 1, .max_tokens = 256}, {0, 63, 64, 200}},
        // No rotation at all.
        Case{{.n_head = 2, .n_head_kv = 1, .head_dim = 64, .n_rot = 0, .scale = 0.125f, .max_tokens = 64}, {0, 17, 63}}));

TEST(DecodeAttentionDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  const DecodeAttentionParams p = {.n_head = 8, .n_head_kv = 2, .head_dim = 64, .n_rot = 64, .scale = 0.125f, .max_tokens = 1024};
  KernelRunner gpu;
  with_extreme_tunings(decode_attention_spec(p, with_sms(gpu.device(), 8)), [&](const Tuning& tuning) {
    const KernelSpec spec = decode_attention_spec(p, with_sms(gpu.device(), 8), tuning);
    SCOPED_TRACE(kernel_label(spec));
    for (const uint32_t position : {130u, 1023u}) check_position(gpu, spec, p, position, make_cache(p, position));
  });
}

}  // namespace
}  // namespace sj::test::decode_attention_test
