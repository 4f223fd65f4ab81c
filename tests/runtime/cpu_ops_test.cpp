// The CPU backend's ops and inner loops against float64 references, and its fast row decoders against dequantise().
#include "runtime/cpu/cpu_ops.h"

#include <bit>
#include <cmath>
#include <random>
#include <span>

#include <gtest/gtest.h>

#include "models/dequant.h"
#include "runtime/cpu/attention.h"
#include "runtime/cpu/step_plan.h"
#include "tests/reference/reference_ops.h"
#include "tests/support/tiny_model.h"

namespace sj::cpu_ops_test {
namespace {

std::vector<float> random_floats(size_t n, uint32_t seed, float amplitude = 1) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> dist(-amplitude, amplitude);
  std::vector<float> x(n);
  for (float& v : x) v = dist(rng);
  return x;
}

double worst_diff(const std::vector<float>& a, const ref::Vec& b) { return ref::max_abs_diff(ref::to_f64(a), b); }

TEST(RowDecoders, EqualDequantiseBitForBit) {
  std::mt19937 rng(7);
  for (size_t isa = 0; isa < n_cpu_isas(); ++isa)
    for (DType dtype : {DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                        DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
      SCOPED_TRACE(std::string(cpu_isa(isa).name) + " " + std::string(dtype_name(dtype)));
      const DTypeInfo& info = dtype_info(dtype);
      const size_t n_blocks = 67 * 256 / info.block_elems, n = n_blocks * info.block_elems;
      std::vector<std::byte> bytes(n_blocks * info.block_bytes);
      for (std::byte& b : bytes) b = std::byte(rng());
      std::vector<float> expected(n), found(n);
      dequantise(dtype, bytes, expected.data(), n);
      ASSERT_TRUE(cpu_isa(isa).decoders->decode(dtype, reinterpret_cast<const uint8_t*>(bytes.data()), found.data(), n));
      for (size_t i = 0; i < n; ++i) {
        if (std::isnan(expected[i]) && std::isnan(found[i])) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(found[i])) << "element " << i;
      }
    }
}

TEST(RowDecoders, DeclineTypesWithoutAFastPath) {
  float out[256];
  const uint8_t bytes[256] = {};
  EXPECT_FALSE(best_cpu_isa().decoders->decode(DType::kIQ4_XS, bytes, out, 256));
}

TEST(RowDecoders, WidenEveryHalf) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = uint16_t(i);
  std::vector<float> found(halves.size());
  for (size_t isa = 0; isa < n_cpu_isas(); ++isa) {
    cpu_isa(isa).decoders->half_to_float(halves.data(), found.data(), halves.size());
    for (size_t i = 0; i < halves.size(); ++i) {
      const float expected = half_to_float(halves[i]);
      ASSERT_EQ(std::isnan(expected), std::isnan(found[i])) << i;
      if (std::isnan(expected)) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(expected), std::bit_cast<uint32_t>(found[i])) << i;
    }
  }
}

TEST(VectorKernels, DotTileMatchesReferenceForAllTileRemainders) {
  for (size_t isa = 0; isa < n_cpu_isas(); ++isa)
    for (size_t n_rows : {1u, 3u, 4u, 7u})
      for (size_t n_tokens : {1u, 2u, 5u})
        for (size_t k : {1u, 15u, 16u, 64u, 77u}) {
          SCOPED_TRACE(std::string(cpu_isa(isa).name) + " " + std::to_string(n_rows) + "x" + std::to_string(n_tokens) + "x" + std::to_string(k));
          const std::vector<float> w = random_floats(n_rows * k, 1), x = random_floats(n_tokens * k, 2);
          std::vector<float> y(n_tokens * n_rows, NAN);
          std::vector<const float*> xs;
          std::vector<float*> ys;
          for (size_t t = 0; t < n_tokens; ++t) xs.push_back(x.data() + t * k), ys.push_back(y.data() + t * n_rows);
          cpu_isa(isa).f32->dot_tile(w.data(), k, n_rows, xs.data(), ys.data(), n_tokens, k);
          // Each addend is at most 1; a chain of k/lanes roundings of sums up to k: k^2 * 2^-24 is generous.
          EXPECT_LT(worst_diff(y, ref::matmul(ref::to_f64(w), ref::to_f64(x), n_rows, k)), double(k * k) * 0x1p-24);
          for (size_t t = 0; t < n_tokens; ++t)
            for (size_t r = 0; r < n_rows; ++r) {
              float alone = NAN;
              float* out = &alone;
              cpu_isa(isa).f32->dot_tile(w.data() + r * k, k, 1, &xs[t], &out, 1, k);
              ASSERT_EQ(alone, y[t * n_rows + r]) << "a tile changes the order of additions";
            }
        }
}

TEST(VectorKernels, AddWeightedRowsMatchesReference) {
  for (size_t isa = 0; isa < n_cpu_isas(); ++isa)
    for (size_t dim : {3u, 16u, 64u, 130u}) {
      const std::vector<float> p = random_floats(9, 3), rows = random_floats(9 * dim, 4);
      std::vector<float> acc(dim, 0.25f);
      cpu_isa(isa).f32->add_weighted_rows(p.data(), rows.data(), dim, 9, acc.data(), dim);
      for (size_t i = 0; i < dim; ++i) {
        double expected = 0.25;
        for (size_t r = 0; r < 9; ++r) expected += double(p[r]) * double(rows[r * dim + i]);
        EXPECT_NEAR(acc[i], expected, 9 * 9 * 0x1p-24);
      }
    }
}

TEST(ThreadPool, RunsEachTaskOnceAndReportsTheFirstError) {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> hits(17);
    pool.for_each(hits.size(), [&](uint64_t i, uint32_t thread) {
      EXPECT_LT(thread, 3u);
      ++hits[i];
    });
    for (const auto& hit : hits) ASSERT_EQ(hit, 1);
  }
  EXPECT_THROW(pool.for_each(8, [](uint64_t i, uint32_t) { if (i == 5) throw std::runtime_error("five"); }), std::runtime_error);
  std::atomic<int> n{0};
  pool.for_each(8, [&](uint64_t, uint32_t) { ++n; });
  EXPECT_EQ(n, 8) << "an error must not poison the next loop";
}

template <class T>
class CpuOps : public testing::Test {
 protected:
  CpuOps() : pool(2), ctx(pool, best_cpu_isa()) {}
  static std::vector<T> random(size_t n, uint32_t seed, float amplitude = 1) {
    const std::vector<float> x = random_floats(n, seed, amplitude);
    return {x.begin(), x.end()};
  }
  static double diff(const std::vector<T>& a, const ref::Vec& b) { return ref::max_abs_diff(ref::to_f64(a), b); }
  static constexpr double kRound = std::is_same_v<T, float> ? 0x1p-24 : 0x1p-53;

  ThreadPool pool;
  CpuContext<T> ctx;
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuOps, Reals);

TYPED_TEST(CpuOps, RmsNormMatchesReference) {
  const auto x = this->random(5 * 96, 1, 30), w = this->random(96, 2);
  std::vector<TypeParam> y(x.size());
  rms_norm<TypeParam>(this->ctx, w.data(), TypeParam(1e-5), 5, 96, x.data(), y.data());
  EXPECT_LT(this->diff(y, ref::rmsnorm(ref::to_f64(x), ref::to_f64(w), 96, double(TypeParam(1e-5)))), 8 * this->kRound);
}

TYPED_TEST(CpuOps, RopeMatchesReferenceForBothPairings) {
  const auto x = this->random(3 * 2 * 10, 1);
  for (RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    const RopeDesc desc{.pairing = pairing, .n_rot = 6, .inv_freq = {1, 0.3, 0.01}, .magnitude = 1.25f};
    std::vector<TypeParam> y(x.size());
    rope<TypeParam>(this->ctx, desc, make_rope_table<TypeParam>(desc, 100, 3), 3, 2, 10, x.data(), y.data());
    const ref::Vec expected = ref::rope(ref::to_f64(x), {100, 101, 102}, 2, 10, desc.inv_freq, pairing == RopePairing::kInterleaved, 1.25);
    EXPECT_LT(this->diff(y, expected), 8 * this->kRound);
  }
}

TYPED_TEST(CpuOps, GluMatchesReferenceForBothActivations) {
  const auto gate = this->random(2 * 700, 1, 12), up = this->random(2 * 700, 2);
  std::vector<TypeParam> y(gate.size());
  glu<TypeParam>(this->ctx, Activation::kSilu, 2, 700, gate.data(), up.data(), y.data());
  EXPECT_LT(this->diff(y, ref::glu(ref::to_f64(gate), ref::to_f64(up), ref::Act::kSilu)), 12 * 8 * this->kRound);
  glu<TypeParam>(this->ctx, Activation::kGeluTanh, 2, 700, gate.data(), up.data(), y.data());
  EXPECT_LT(this->diff(y, ref::glu(ref::to_f64(gate), ref::to_f64(up), ref::Act::kGeluTanh)), 12 * 8 * this->kRound);
}

TYPED_TEST(CpuOps, RouteMatchesReferenceAndBreaksTiesByLowerId) {
  std::vector<TypeParam> logits = this->random(2 * 8, 1, 4);
  logits[8 + 1] = logits[8 + 5] = logits[8 + 3] = TypeParam(9);
  std::vector<int32_t> ids(6);
  std::vector<TypeParam> weights(6);
  route<TypeParam>({.n_experts = 8, .n_used = 3}, 2, logits.data(), ids.data(), weights.data());
  for (size_t t = 0; t < 2; ++t) {
    const ref::Route r = ref::route(ref::Vec(logits.begin() + long(t * 8), logits.begin() + long(t * 8 + 8)), 3);
    EXPECT_EQ(std::vector<int>(ids.begin() + long(t * 3), ids.begin() + long(t * 3 + 3)), r.ids);
    for (size_t s = 0; s < 3; ++s) EXPECT_NEAR(double(weights[t * 3 + s]), r.weights[s], 8 * this->kRound);
  }
  EXPECT_EQ(std::vector<int>(ids.begin() + 3, ids.end()), (std::vector<int>{1, 3, 5}));
}

TYPED_TEST(CpuOps, SoftcapMatchesReference) {
  const auto x = this->random(50, 1, 90);
  std::vector<TypeParam> y(50);
  softcap<TypeParam>(30, 50, x.data(), y.data());
  EXPECT_LT(this->diff(y, ref::softcap(ref::to_f64(x), 30)), 30 * 8 * this->kRound);
}

TYPED_TEST(CpuOps, AttentionMatchesReferenceWithAndWithoutWindow) {
  const test::TempDir dir;
  const ModelDesc model = describe_model(open_gguf(dir.write("m.gguf", test::tiny_model("llama", {.ctx = 200}).bytes())));
  const uint32_t n_keys = 170, dim = 8;
  const auto k = this->random(n_keys * 2 * dim, 1), v = this->random(n_keys * 2 * dim, 2), q = this->random(n_keys * 4 * dim, 3, 3);
  for (uint32_t window : {0u, 1u, 5u, 64u, 100u}) {
    const AttentionOp op{.layer_idx = 1, .n_head = 4, .n_head_kv = 2, .head_dim = dim, .scale = 0.5f, .window_tokens = window};
    const ref::Vec expected = ref::attention(ref::to_f64(q), ref::to_f64(k), ref::to_f64(v), 4, 2, dim, 0.5, 0, window);
    std::vector<TypeParam> first;
    for (uint32_t step : {170u, 1u, 63u}) {
      KvCache<TypeParam> cache(model, CpuKvType::kExact, n_keys);
      std::vector<TypeParam> y(q.size());
      for (uint32_t at = 0; at < n_keys; at += step) {
        const uint32_t n = std::min(step, n_keys - at);
        cache.append(1, at, n, k.data() + at * 2 * dim, v.data() + at * 2 * dim);
        attention<TypeParam>(this->ctx, op, cache, at, n, q.data() + at * 4 * dim, y.data() + at * 4 * dim);
      }
      // Logits are below 12: exp multiplies their rounding, then up to 170 additions of each sum.
      EXPECT_LT(this->diff(y, expected), (12 * 8 + 170) * this->kRound) << "window " << window << " step " << step;
      if (first.empty()) first = y;
      EXPECT_EQ(y, first) << "the split changes bits, window " << window << " step " << step;
    }
  }
}

TEST(CpuArenaPlan, LiveValuesNeverOverlap) {
  const test::TempDir dir;
  const ModelDesc model = describe_model(open_gguf(dir.write("m.gguf", test::tiny_model("qwen3moe").bytes())));
  const OpGraph graph = build_graph(model, {.n_tokens = 3, .max_ctx_tokens = 64, .all_logits = true});
  const CpuArenaPlan plan = plan_cpu_arena(graph, 4);
  std::vector<size_t> born(graph.values.size()), dies(graph.values.size());
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (ValueId id : graph.ops[i].outputs) born[id] = dies[id] = i;
    for (ValueId id : graph.ops[i].inputs) dies[id] = i;
  }
  dies[graph.logits] = graph.ops.size();
  uint64_t total = 0;
  for (ValueId a = 0; a < graph.values.size(); ++a) {
    const uint64_t a_end = plan.offset_bytes[a] + graph.values[a].n_elems() * 4;
    total += graph.values[a].n_elems() * 4;
    EXPECT_LE(a_end, plan.n_bytes);
    for (ValueId b = 0; b < a; ++b) {
      if (born[a] > dies[b] || born[b] > dies[a]) continue;
      const uint64_t b_end = plan.offset_bytes[b] + graph.values[b].n_elems() * 4;
      EXPECT_TRUE(a_end <= plan.offset_bytes[b] || b_end <= plan.offset_bytes[a]) << graph.values[a].name << " and " << graph.values[b].name;
    }
  }
  EXPECT_LT(plan.n_bytes, total / 3) << "room is not reused";
}

}  // namespace
}  // namespace sj::cpu_ops_test
