// The decode stages that multiply matrices: decode_gemv, decode_glu, decode_moe_down, decode_head.
#include "kernel_src/args/decode_gemv.h"
#include "kernel_src/args/decode_glu.h"
#include "kernel_src/args/decode_head.h"
#include "kernel_src/args/decode_moe_down.h"
#include "kernel_src/args/step_state.h"
#include "kernel_src/decode_stages_spec.h"
#include "tests/kernel_src/decode_data.h"

namespace sj::test::decode_matmul_test {
namespace {

const DeviceInfo& rtx5090() {
  static const DeviceInfo device = require_device_profile("rtx5090");
  return device;
}

// ---- specs

TEST(DecodeMatmulSpec, BuffersHaveTheSizesOfTheDeviceStructs) {
  EXPECT_EQ(quant_vec_bytes(32), 48u);            // 32 int8, 4 floats
  EXPECT_EQ(quant_vec_bytes(2048), 64u * 48);
  EXPECT_EQ(normed_vec_bytes(32), 64u);           // and 2 sums, padded to 16
  EXPECT_EQ(normed_vec_bytes(2048), 64u * 48 + 128 * 4);
  EXPECT_EQ(normed_vec_bytes(96), 3u * 48 + 32);  // 6 sums of 4 bytes, padded to 16
}

TEST(DecodeMatmulSpec, MatricesLieOneBelowTheOther) {
  const KernelSpec spec = decode_gemv_spec({.matrices = {{DType::kQ4_K, 100}, {DType::kQ6_K, 20}, {DType::kQ8_0, 8}}, .n_cols = 512}, rtx5090());
  EXPECT_EQ(baked_int(spec, "kTileRows"), 8);
  EXPECT_EQ(baked_int(spec, "kRowsOut"), 32) << "no row is finished: any dim that a vector can have";
  EXPECT_EQ(spec.launch.grid.x, 13u + 3 + 1);
  EXPECT_EQ(spec.launch.dynamic_smem_bytes, 8 * row_record_bytes(DType::kQ8_0, 512)) << "the largest record counts";
  const std::string text = baked_header(spec);
  EXPECT_NE(text.find("kMatrixFirstBlock[3] = {0, 13, 16}"), std::string::npos) << text;
  EXPECT_NE(text.find("kMatrixFirstOut[3] = {0, 100, 120}"), std::string::npos) << text;
}

TEST(DecodeMatmulSpec, TilesGrowWithTheRowsAnSmHas) {
  const DecodeGemvParams p = {.matrices = {{DType::kQ4_0, 640}}, .n_cols = 512};
  EXPECT_EQ(baked_int(decode_gemv_spec(p, rtx5090()), "kTileRows"), 8);
  EXPECT_EQ(baked_int(decode_gemv_spec(p, with_sms(rtx5090(), 16)), "kTileRows"), 20);
  EXPECT_EQ(baked_int(decode_gemv_spec(p, with_sms(rtx5090(), 2)), "kTileRows"), 32);
}

TEST(DecodeMatmulSpec, TilesShrinkToFitSharedMemory) {
  // Few SMs ask for 32 rows, but 32 of 4096 columns in Q6_K are more than the 99 KB of a block.
  const KernelSpec spec = decode_gemv_spec({.matrices = {{DType::kQ4_K, 5120}, {DType::kQ6_K, 1024}}, .n_cols = 4096, .is_normed = true},
                                           require_device_profile("gb10"));
  EXPECT_EQ(baked_int(spec, "kTileRows"), 24);
  EXPECT_EQ(spec.launch.grid.x, 214u + 43);
}

TEST(DecodeMatmulSpec, GemvRefusesWhatItCannotServe) {
  const auto make = [](DecodeGemvParams p) { return [p] { decode_gemv_spec(p, rtx5090()); }; };
  EXPECT_TRUE(is_refused(make({.matrices = {}, .n_cols = 512}), "decode_gemv: expected 1 to 4 matrices, found 0"));
  EXPECT_TRUE(is_refused(make({.matrices = std::vector<DecodeMatrix>(5, {DType::kQ4_0, 8}), .n_cols = 512}), "found 5"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kF16, 8}}, .n_cols = 512}), "int8 activations go with quantised weights, found F16"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 0}}, .n_cols = 512}), "a matrix without rows"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 8}}, .n_cols = 0}), "0 columns are not a positive multiple of 32"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 8}}, .n_cols = 48}), "48 columns"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_K, 8}}, .n_cols = 288}), "256"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 48}}, .n_cols = 512, .finishes_rows = true}), "48 rows are not a multiple of 32"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 32}, {DType::kQ4_0, 32}}, .n_cols = 512, .finishes_rows = true}), "one matrix finishes rows, not 2"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 32}}, .n_cols = 65536, .is_normed = true}), "input and sums take"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ4_0, 32}}, .n_cols = 512, .finishes_rows = true, .n_experts = 513}), "expected up to 512 experts, found 513"));
  EXPECT_TRUE(is_refused(make({.matrices = {{DType::kQ8_0, 32}}, .n_cols = 16384, .finishes_rows = true}), "don't fit the 101376 of a block"));
}

TEST(DecodeMatmulSpec, ExpertStagesRefuseWhatTheyCannotServe) {
  const auto glu = [](DecodeGluParams p) { return [p] { decode_glu_spec(p, rtx5090()); }; };
  EXPECT_TRUE(is_refused(glu({.n_cols = 256, .n_ff = 48}), "decode_glu: 48 hidden values are not a positive multiple of 32"));
  EXPECT_TRUE(is_refused(glu({.n_cols = 256, .n_ff = 64, .n_experts = 640, .n_used = 8}), "expected up to 512 experts, found 640"));
  EXPECT_TRUE(is_refused(glu({.n_cols = 256, .n_ff = 64, .n_experts = 6, .n_used = 8}), "8 experts a token"));
  EXPECT_TRUE(is_refused(glu({.n_cols = 256, .n_ff = 64, .n_experts = 128, .n_used = 33}), "33 experts a token"));
  EXPECT_TRUE(is_refused(glu({.n_cols = 256, .n_ff = 64, .n_used = 2}), "2 experts a token"));
  EXPECT_TRUE(is_refused(glu({.dtype = DType::kBF16, .n_cols = 256, .n_ff = 64}), "found BF16"));
  const auto down = [](DecodeMoeDownParams p) { return [p] { decode_moe_down_spec(p, rtx5090()); }; };
  EXPECT_TRUE(is_refused(down({DType::kQ4_K, 256, 256, 128, 6}), "decode_moe_down: expected 2, 4 or 8 experts a token, found 6"));
  EXPECT_TRUE(is_refused(down({DType::kQ4_K, 256, 256, 0, 8}), "expected 8 to 512 experts, found 0"));
  EXPECT_TRUE(is_refused(down({DType::kQ4_K, 240, 256, 128, 8}), "240 rows are not a positive multiple of 32"));
  EXPECT_TRUE(is_refused(down({DType::kQ4_K, 256, 128, 128, 8}), "256"));
  EXPECT_TRUE(is_refused(down({DType::kQ8_0, 256, 2048, 128, 8}), "don't fit the 101376 of a block"));
}

TEST(DecodeMatmulSpec, HeadRefusesWhatItCannotServe) {
  const auto make = [](DecodeHeadParams p) { return [p] { decode_head_spec(p, rtx5090()); }; };
  EXPECT_TRUE(is_refused(make({.n_rows = 10, .n_cols = 256, .n_ring_slots = 6}), "decode_head: 6 ring slots are not a power of two"));
  EXPECT_TRUE(is_refused(make({.dtype = DType::kF32, .n_rows = 10, .n_cols = 256}), "found F32"));
  EXPECT_TRUE(is_refused(make({.n_rows = 0, .n_cols = 256}), "decode_head: no rows"));
  EXPECT_TRUE(is_refused(make({.dtype = DType::kQ8_0, .n_rows = 10, .n_cols = 24576}), "don't fit the 101376 bytes"));
  EXPECT_TRUE(is_refused(make({.dtype = DType::kQ2_K, .n_rows = 10, .n_cols = 65536}), "the input takes 114688 bytes of shared memory"));
}

TEST(DecodeMatmulSpec, HeadCoversEveryRowAndFitsItsRing) {
  for (const DeviceInfo& device : profiled_devices())
    for (const uint32_t n_rows : {1u, 49152u, 151936u}) {
      const KernelSpec spec = decode_head_spec({.dtype = DType::kQ6_K, .n_rows = n_rows, .n_cols = 2048}, device);
      EXPECT_GE(uint64_t{spec.launch.grid.x} * 8 * uint64_t(baked_int(spec, "kWarpRows")), n_rows);
      EXPECT_LE(spec.launch.dynamic_smem_bytes + normed_vec_bytes(2048) + 1024, device.smem_per_block_bytes);
    }
}

// ---- compilation

struct ModelShape {
  const char* name;
  uint32_t d_model, n_head, n_head_kv, head_dim, n_ff;
  DType q, v, up, down, head;
  bool has_bias;
};
void PrintTo(const ModelShape& m, std::ostream* out) { *out << m.name; }

class DecodeMatmulCompile : public ::testing::TestWithParam<ModelShape> {};

TEST_P(DecodeMatmulCompile, EveryStageOfTheModelFitsEveryCard) {
  SJ_SKIP_WITHOUT_NVRTC();
  const ModelShape& m = GetParam();
  const uint32_t q = m.n_head * m.head_dim, kv = m.n_head_kv * m.head_dim;
  EXPECT_TRUE(fits_profiled_devices([&](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{m.q, q}, {m.q, kv}, {m.v, kv}}, .n_cols = m.d_model, .is_normed = true, .has_bias = m.has_bias, .eps = 1e-6f}, device);
  }));
  EXPECT_TRUE(fits_profiled_devices([&](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{m.q, m.d_model}}, .n_cols = q, .finishes_rows = true}, device);
  }));
  EXPECT_TRUE(fits_profiled_devices([&](const DeviceInfo& device) {
    return decode_glu_spec({.dtype = m.up, .n_cols = m.d_model, .n_ff = m.n_ff, .eps = 1e-6f}, device);
  }));
  // 16 rows of 12288 columns and more don't fit the 99 KB of a block on the smaller cards.
  const std::vector<DeviceInfo> devices = m.n_ff < 12288 ? profiled_devices() : std::vector{require_device_profile("h200")};
  EXPECT_TRUE(fits_devices(devices, [&](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{m.down, m.d_model}}, .n_cols = m.n_ff, .finishes_rows = true}, device);
  }));
  EXPECT_TRUE(fits_profiled_devices([&](const DeviceInfo& device) {
    return decode_head_spec({.dtype = m.head, .n_rows = 49152, .n_cols = m.d_model, .has_bias = m.has_bias, .eps = 1e-6f, .n_ring_slots = 256}, device);
  }));
}
INSTANTIATE_TEST_SUITE_P(
    Models, DecodeMatmulCompile,
    ::testing::Values(
        ModelShape{"Qwen3_8B", 4096, 32, 8, 128, 12288, DType::kQ4_K, DType::kQ6_K, DType::kQ4_K, DType::kQ6_K, DType::kQ6_K, false},
        ModelShape{"Qwen2_7B", 3584, 28, 4, 128, 18944, DType::kQ4_K, DType::kQ6_K, DType::kQ4_K, DType::kQ4_K, DType::kQ6_K, true},
        ModelShape{"SmolLM2", 576, 9, 3, 64, 1536, DType::kQ4_1, DType::kQ8_0, DType::kQ4_1, DType::kQ8_0, DType::kQ8_0, false}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ExpertsCompile, Qwen3_30B_A3BFitsEveryCard) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(fits_profiled_devices([](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{DType::kQ4_K, 4096}, {DType::kQ4_K, 512}, {DType::kQ6_K, 512}}, .n_cols = 2048, .is_normed = true, .eps = 1e-6f}, device);
  }));
  EXPECT_TRUE(fits_profiled_devices([](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{DType::kQ4_K, 2048}}, .n_cols = 4096, .finishes_rows = true, .n_experts = 128}, device);
  }));
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K})
    EXPECT_TRUE(fits_profiled_devices([&](const DeviceInfo& device) { return decode_moe_down_spec({dtype, 2048, 768, 128, 8, 1e-6f}, device); }));
  EXPECT_TRUE(fits_profiled_devices([](const DeviceInfo& device) {
    return decode_glu_spec({.dtype = DType::kQ4_K, .n_cols = 2048, .n_ff = 768, .n_experts = 128, .n_used = 8, .eps = 1e-6f}, device);
  }));
  EXPECT_TRUE(fits_profiled_devices([](const DeviceInfo& device) {
    return decode_head_spec({.dtype = DType::kQ6_K, .n_rows = 151936, .n_cols = 2048, .eps = 1e-6f, .n_ring_slots = 256}, device);
  }));
}

TEST(SmallestCompile, OneChunkOfColumns) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(fits_devices({rtx5090()}, [](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{DType::kQ4_1, 10}}, .n_cols = 32, .is_normed = true, .eps = 1e-6f, .n_experts = 7}, device);
  }));
  EXPECT_TRUE(fits_devices({rtx5090()}, [](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{DType::kQ8_0, 32}}, .n_cols = 32, .finishes_rows = true, .n_experts = 7}, device);
  }));
  EXPECT_TRUE(fits_devices({rtx5090()}, [](const DeviceInfo& device) { return decode_glu_spec({.dtype = DType::kQ4_0, .n_cols = 32, .n_ff = 32, .eps = 1e-6f}, device); }));
  EXPECT_TRUE(fits_devices({rtx5090()}, [](const DeviceInfo& device) { return decode_moe_down_spec({DType::kQ4_0, 32, 32, 7, 2, 1e-6f}, device); }));
}

// Tiles of few rows (RTX 5090) and of many (GB10); sm_90 has the models' types above.
class TypesCompile : public ::testing::TestWithParam<DType> {};
TEST_P(TypesCompile, FitsSmallAndTallTiles) {
  SJ_SKIP_WITHOUT_NVRTC();
  EXPECT_TRUE(fits_devices({rtx5090(), require_device_profile("gb10")}, [](const DeviceInfo& device) {
    return decode_gemv_spec({.matrices = {{GetParam(), 2048}}, .n_cols = 2048, .is_normed = true, .eps = 1e-6f}, device);
  }));
}
INSTANTIATE_TEST_SUITE_P(Types, TypesCompile, ::testing::ValuesIn(quantised_types()), [](const auto& info) { return std::string(dtype_name(info.param)); });

// ---- results

/// One launch of decode_gemv against float64, on a card of `n_sms` SMs (0: the device's own number).
void check_gemv(const DecodeGemvParams& p, uint32_t n_sms = 0, const Tuning& tuning = {}) {
  KernelRunner gpu;
  const DeviceInfo device = with_sms(gpu.device(), n_sms == 0 ? gpu.device().n_sms : n_sms);
  const KernelSpec spec = decode_gemv_spec(p, device, tuning);
  SCOPED_TRACE(kernel_label(spec));
  const std::vector<float> x = random_floats(p.n_cols, 1), norm = random_floats(p.n_cols, 2);
  const NormedInput normed = normed_input(x, norm, double(p.eps));
  const QuantisedVec plain = quantise(x);
  const ref::Vec& values = p.is_normed ? normed.values : plain.values;
  DecodeGemvArgs args = {.weights = {}, .bias = {}, .x = gpu.upload(p.is_normed ? normed.bytes : plain.bytes), .residual = nullptr, .y = nullptr,
                         .next_norm = nullptr, .next = nullptr, .router = nullptr, .scores = nullptr};
  ref::Vec want, bound;
  for (std::size_t i = 0; i < p.matrices.size(); ++i) {
    const TestMatrix m = random_matrix(p.matrices[i].dtype, p.matrices[i].n_rows, p.n_cols, 10 + i);
    const std::vector<float> bias = random_floats(m.n_rows, 20 + i);
    args.weights[i] = upload_matrix(gpu, m);
    if (p.has_bias) args.bias[i] = gpu.upload(bias);
    ref::Vec y = ref::matmul(m.values, values, m.n_rows, m.n_cols), b = decode_dot_bound(m, values, p.is_normed ? rms_roundings(p.n_cols) : 0);
    for (std::size_t r = 0; r < m.n_rows; ++r) {
      if (p.has_bias) y[r] += double(bias[r]), b[r] += 2 * kRoundF32 * (std::fabs(y[r]) + std::fabs(double(bias[r])));
      want.push_back(y[r]), bound.push_back(b[r]);
    }
  }
  const std::size_t n = want.size();
  const std::vector<float> residual = random_floats(n, 3), next_norm = random_floats(n, 4);
  args.y = gpu.alloc<float>(n + 1);
  if (p.finishes_rows) {
    args.residual = gpu.upload(residual), args.next_norm = gpu.upload(next_norm);
    args.next = gpu.alloc<uint8_t>(normed_vec_bytes(uint32_t(n)));
    for (std::size_t r = 0; r < n; ++r) want[r] += double(residual[r]), bound[r] += 2 * kRoundF32 * (std::fabs(want[r]) + std::fabs(double(residual[r])));
  }
  const TestMatrix router = random_matrix(DType::kF32, p.n_experts, p.n_experts == 0 ? 32 : n, 5);
  const std::vector<float> other_parts = random_floats(p.n_experts, 6);
  if (p.n_experts != 0) args.router = upload_matrix(gpu, router), args.scores = gpu.upload(score_units(other_parts));
  gpu.run(spec, args);
  std::vector<float> y = gpu.download(args.y, n + 1);
  EXPECT_EQ(y.back(), unwritten());
  y.pop_back();
  if (p.finishes_rows)
    EXPECT_TRUE(is_finished(y, gpu.download(static_cast<const uint8_t*>(args.next), normed_vec_bytes(uint32_t(n))), want, bound, next_norm));
  else
    EXPECT_TRUE(is_close(y, want, bound));
  if (p.n_experts == 0) return;
  const std::vector<float> scores_after = score_values(gpu.download(args.scores, n_score_slots(p.n_experts)), p.n_experts);
  if (!p.finishes_rows) {
    EXPECT_EQ(scores_after, std::vector<float>(p.n_experts, 0.0f));
    return;
  }
  ref::Vec scored(n), scored_bound(p.n_experts, 0.0);
  for (std::size_t r = 0; r < n; ++r) scored[r] = want[r] * double(next_norm[r]);
  ref::Vec scores = ref::matmul(router.values, scored, p.n_experts, n);
  for (std::size_t e = 0; e < p.n_experts; ++e) {
    scores[e] += double(other_parts[e]);
    scored_bound[e] = 2 * kRoundF32 * std::fabs(scores[e]) + double(n) * 1e-9;   // a part is rounded to a unit
    for (std::size_t r = 0; r < n; ++r)   // the row's own error, then a product with the norm, a chain of 4 and two shuffles
      scored_bound[e] += std::fabs(router.values[e * n + r] * double(next_norm[r])) * (bound[r] + 10 * kRoundF32 * std::fabs(want[r]));
  }
  EXPECT_TRUE(is_close(scores_after, scores, scored_bound));
}

class DecodeGemvDevice : public ::testing::TestWithParam<DType> {};
TEST_P(DecodeGemvDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{GetParam(), 44}}, .n_cols = 768, .is_normed = true, .eps = 1e-5f});
}
TEST_P(DecodeGemvDevice, FinishesRows) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{GetParam(), 32}}, .n_cols = 512, .finishes_rows = true});
}
INSTANTIATE_TEST_SUITE_P(Types, DecodeGemvDevice, ::testing::ValuesIn(quantised_types()), [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(DecodeGemvDevice, MixesTypesOfMatricesWithBiases) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{DType::kQ4_K, 36}, {DType::kQ4_K, 13}, {DType::kQ6_K, 9}, {DType::kQ8_0, 1}}, .n_cols = 512, .is_normed = true, .has_bias = true, .eps = 1e-6f});
}

TEST(DecodeGemvDevice, ClearsRouterScores) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{DType::kQ4_K, 20}, {DType::kQ4_K, 12}}, .n_cols = 512, .is_normed = true, .eps = 1e-5f, .n_experts = 384});
}

TEST(DecodeGemvDevice, AddsTheRowsPartsOfRouterScores) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{DType::kQ4_K, 96}}, .n_cols = 512, .finishes_rows = true, .n_experts = 128});
  check_gemv({.matrices = {{DType::kQ8_0, 32}}, .n_cols = 4096, .finishes_rows = true, .has_bias = true, .n_experts = 384});   // one and a half rounds
  check_gemv({.matrices = {{DType::kQ4_0, 32}}, .n_cols = 64, .finishes_rows = true, .n_experts = 7});
}

TEST(DecodeGemvDevice, TallTilesAndTheirTails) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{DType::kQ4_0, 70}, {DType::kQ8_0, 33}}, .n_cols = 576, .is_normed = true, .eps = 1e-5f}, 1);   // tiles of 32
  check_gemv({.matrices = {{DType::kQ5_1, 70}}, .n_cols = 576}, 2);                                                        // tiles of 20
}

TEST(DecodeGemvDevice, ColumnsOfFewAndManySlices) {
  SJ_SKIP_WITHOUT_GPU();
  check_gemv({.matrices = {{DType::kQ4_1, 10}}, .n_cols = 32, .is_normed = true, .eps = 1e-5f});     // one chunk, seven warps idle
  check_gemv({.matrices = {{DType::kQ4_K, 12}}, .n_cols = 2304, .is_normed = true, .eps = 1e-5f});   // nine slices over eight warps
  check_gemv({.matrices = {{DType::kQ6_K, 32}}, .n_cols = 4352, .finishes_rows = true, .has_bias = true});   // 17 over 16
  check_gemv({.matrices = {{DType::kIQ4_NL, 64}}, .n_cols = 1312, .finishes_rows = true});           // a slice of one chunk
}

TEST(DecodeGemvDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  for (const DecodeGemvParams& p : {DecodeGemvParams{.matrices = {{DType::kQ4_K, 70}, {DType::kQ6_K, 9}}, .n_cols = 768, .is_normed = true, .eps = 1e-6f},
                                    DecodeGemvParams{.matrices = {{DType::kQ8_0, 32}}, .n_cols = 1312, .finishes_rows = true}})
    with_extreme_tunings(decode_gemv_spec(p, KernelRunner().device()), [&](const Tuning& tuning) { check_gemv(p, 0, tuning); });
}

TEST(DecodeGemvDevice, ZeroVectorGivesTheBias) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  const TestMatrix m = random_matrix(DType::kQ4_K, 8, 256, 1);
  const std::vector<float> bias = random_floats(8, 2);
  DecodeGemvArgs args = {.weights = {upload_matrix(gpu, m)}, .bias = {gpu.upload(bias)}, .x = gpu.upload(quantise(std::vector<float>(256)).bytes),
                         .residual = nullptr, .y = gpu.alloc<float>(8), .next_norm = nullptr, .next = nullptr, .router = nullptr, .scores = nullptr};
  gpu.run(decode_gemv_spec({.matrices = {{m.dtype, 8}}, .n_cols = 256, .has_bias = true}, gpu.device()), args);
  EXPECT_EQ(gpu.download(args.y, 8), bias);
}

std::vector<float> router_scores(uint32_t n_experts, uint64_t seed) { return random_floats(n_experts, seed, 2.0); }

/// act(gate) * up of one expert, and how far the device may be from it.
void append_hidden(const DecodeGluParams& p, const TestMatrix& gate, const TestMatrix& up, const ref::Vec& x, ref::Vec& want, ref::Vec& bound) {
  const ref::Vec g = ref::matmul(gate.values, x, gate.n_rows, p.n_cols), u = ref::matmul(up.values, x, up.n_rows, p.n_cols);
  const ref::Vec g_bound = decode_dot_bound(gate, x, rms_roundings(p.n_cols)), u_bound = decode_dot_bound(up, x, rms_roundings(p.n_cols));
  const ref::Vec h = ref::glu(g, u, p.is_gelu ? ref::Act::kGeluTanh : ref::Act::kSilu);
  for (std::size_t i = 0; i < h.size(); ++i) {
    want.push_back(h[i]);
    // Both activations have slopes below 1.2 and |act(x)| <= |x|; their own error is a few ulp of |x| (exp and a division).
    bound.push_back(1.2 * g_bound[i] * std::fabs(u[i]) + u_bound[i] * std::fabs(g[i]) + 32 * kRoundF32 * std::fabs(g[i] * u[i]));
  }
}

void check_glu(const DecodeGluParams& p, const Tuning& tuning = {}) {
  KernelRunner gpu;
  const KernelSpec spec = decode_glu_spec(p, gpu.device(), tuning);
  SCOPED_TRACE(kernel_label(spec));
  const uint32_t n_matrices = std::max(p.n_experts, 1u);
  const TestMatrix gate = random_matrix(p.dtype, std::size_t{n_matrices} * p.n_ff, p.n_cols, 1), up = random_matrix(p.dtype, std::size_t{n_matrices} * p.n_ff, p.n_cols, 2);
  const std::vector<float> x = random_floats(p.n_cols, 3), norm = random_floats(p.n_cols, 4), scores = router_scores(std::max(p.n_experts, 1u), 5);
  const NormedInput in = normed_input(x, norm, double(p.eps));
  const uint32_t dim = p.n_used * p.n_ff;
  const DecodeGluArgs args = {.gate = upload_matrix(gpu, gate), .up = upload_matrix(gpu, up), .x = gpu.upload(in.bytes),
                              .scores = p.n_experts > 0 ? gpu.upload(score_units(scores)) : nullptr, .h = gpu.alloc<uint8_t>(quant_vec_bytes(dim))};
  gpu.run(spec, args);
  ref::Vec want, bound;
  const std::vector<int> ids = p.n_experts > 0 ? ref::top_k(ref::to_f64(scores), p.n_used) : std::vector<int>{0};
  for (const int id : ids)
    append_hidden(p, rows_of(gate, std::size_t(id) * p.n_ff, p.n_ff), rows_of(up, std::size_t(id) * p.n_ff, p.n_ff), in.values, want, bound);
  EXPECT_TRUE(is_quantised_from(gpu.download(static_cast<const uint8_t*>(args.h), quant_vec_bytes(dim)), want, bound));
}

TEST(DecodeGluDevice, DenseMatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_glu({.dtype = DType::kQ4_K, .n_cols = 512, .n_ff = 96, .eps = 1e-5f});
  check_glu({.dtype = DType::kQ8_0, .n_cols = 608, .n_ff = 64, .is_gelu = true, .eps = 1e-6f});
  check_glu({.dtype = DType::kQ6_K, .n_cols = 2304, .n_ff = 32, .eps = 1e-6f});
}

TEST(DecodeGluDevice, ChosenExpertsMatchF64InOrderOfRank) {
  SJ_SKIP_WITHOUT_GPU();
  check_glu({.dtype = DType::kQ4_K, .n_cols = 256, .n_ff = 64, .n_experts = 128, .n_used = 8, .eps = 1e-6f});
  check_glu({.dtype = DType::kQ4_1, .n_cols = 96, .n_ff = 32, .n_experts = 384, .n_used = 5, .eps = 1e-6f});
  check_glu({.dtype = DType::kQ4_0, .n_cols = 64, .n_ff = 32, .n_experts = 103, .n_used = 8, .eps = 1e-6f});   // some lanes have none, one has three
  check_glu({.dtype = DType::kQ4_0, .n_cols = 64, .n_ff = 32, .n_experts = 2, .n_used = 2, .eps = 1e-6f});
}

TEST(DecodeGluDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  const DecodeGluParams p = {.dtype = DType::kQ4_K, .n_cols = 256, .n_ff = 64, .n_experts = 128, .n_used = 2, .eps = 1e-6f};
  with_extreme_tunings(decode_glu_spec(p, KernelRunner().device()), [&](const Tuning& tuning) { check_glu(p, tuning); });
}

void check_moe_down(const DecodeMoeDownParams& p, const std::vector<float>& scores, const Tuning& tuning = {}) {
  KernelRunner gpu;
  const KernelSpec spec = decode_moe_down_spec(p, gpu.device(), tuning);
  SCOPED_TRACE(kernel_label(spec));
  const TestMatrix w = random_matrix(p.dtype, std::size_t{p.n_experts} * p.n_rows, p.n_ff, 1);
  const std::vector<float> residual = random_floats(p.n_rows, 3), next_norm = random_floats(p.n_rows, 4);
  const std::vector<float> x = random_floats(p.n_rows, 5, 3.0);
  const QuantisedVec h = quantise(random_floats(std::size_t{p.n_used} * p.n_ff, 2));
  const DecodeMoeDownArgs args = {.weights = upload_matrix(gpu, w), .scores = gpu.upload(score_units(scores)),
                                  .x = gpu.upload(normed_input(x, std::vector<float>(p.n_rows, 1.0f), double(p.eps)).bytes), .h = gpu.upload(h.bytes), .residual = gpu.upload(residual),
                                  .y = gpu.alloc<float>(p.n_rows), .next_norm = gpu.upload(next_norm), .next = gpu.alloc<uint8_t>(normed_vec_bytes(p.n_rows))};
  gpu.run(spec, args);
  double squares = 0;
  for (const float v : x) squares += double(v) * double(v);
  ref::Vec logits = ref::to_f64(scores);
  for (double& logit : logits) logit /= std::sqrt(squares / p.n_rows + double(p.eps));
  const ref::Route route = ref::route(logits, p.n_used);
  ref::Vec want = ref::to_f64(residual), bound(p.n_rows, 0.0);
  for (uint32_t s = 0; s < p.n_used; ++s) {
    const TestMatrix one = rows_of(w, std::size_t(route.ids[s]) * p.n_rows, p.n_rows);
    const ref::Vec x(h.values.begin() + std::ptrdiff_t{s} * p.n_ff, h.values.begin() + std::ptrdiff_t{s + 1} * p.n_ff);
    const ref::Vec dot = ref::matmul(one.values, x, p.n_rows, p.n_ff), dot_error = decode_dot_bound(one, x);
    for (uint32_t r = 0; r < p.n_rows; ++r) {
      want[r] += route.weights[s] * dot[r];
      // A weight: exp of a difference of logits up to 10 (two roundings of it, and those of 1 / rms), the sum and the division.
      bound[r] += route.weights[s] * (dot_error[r] + (40 + 10 * rms_roundings(p.n_rows)) * kRoundF32 * std::fabs(dot[r])) + 2 * kRoundF32 * (std::fabs(want[r]) + std::fabs(double(residual[r])));
    }
  }
  EXPECT_TRUE(is_finished(gpu.download(args.y, p.n_rows), gpu.download(static_cast<const uint8_t*>(args.next), normed_vec_bytes(p.n_rows)), want, bound, next_norm));
}

TEST(DecodeMoeDownDevice, MatchesF64) {
  SJ_SKIP_WITHOUT_GPU();
  check_moe_down({DType::kQ4_K, 64, 256, 128, 8, 1e-6f}, router_scores(128, 7));
  check_moe_down({DType::kQ6_K, 32, 768, 128, 8, 1e-6f}, router_scores(128, 8));
  check_moe_down({DType::kQ8_0, 32, 96, 256, 4, 2.0f}, router_scores(256, 9));   // an eps that counts
  check_moe_down({DType::kQ5_0, 64, 64, 512, 2, 1e-5f}, router_scores(512, 10));
  check_moe_down({DType::kQ8_0, 32, 1312, 128, 2, 1e-5f}, router_scores(128, 10));   // more slices than a lane holds
  check_moe_down({DType::kQ4_K, 32, 256, 103, 8, 1e-6f}, router_scores(103, 12));   // some lanes have no expert, one has three
  check_moe_down({DType::kQ8_0, 32, 64, 130, 4, 1e-6f}, router_scores(130, 13));    // two in the second round
  check_moe_down({DType::kQ8_0, 32, 64, 2, 2, 1e-6f}, {-3.0f, -4.0f});
}

TEST(DecodeMoeDownDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  const DecodeMoeDownParams p = {DType::kQ4_K, 32, 768, 128, 8, 1e-6f};
  with_extreme_tunings(decode_moe_down_spec(p, KernelRunner().device()), [&](const Tuning& tuning) { check_moe_down(p, router_scores(128, 7), tuning); });
}

TEST(DecodeMoeDownDevice, TiesGoToTheLowerId) {
  SJ_SKIP_WITHOUT_GPU();
  std::vector<float> scores(128, 1.0f);   // ids 3, 60, then 0, 1
  scores[60] = 2.0f, scores[3] = 2.5f;
  check_moe_down({DType::kQ8_0, 32, 64, 128, 4, 1e-6f}, scores);
  std::vector<float> negative = router_scores(128, 11);
  for (float& v : negative) v = -std::fabs(v);
  check_moe_down({DType::kQ8_0, 32, 64, 128, 4, 1e-6f}, negative);
}

void check_head(const DecodeHeadParams& p, uint32_t n_sms, const Tuning& tuning = {}) {
  KernelRunner gpu;
  const KernelSpec spec = decode_head_spec(p, with_sms(gpu.device(), n_sms), tuning);
  SCOPED_TRACE(kernel_label(spec));
  const TestMatrix m = random_matrix(p.dtype, p.n_rows, p.n_cols, 1);
  const std::vector<float> x = random_floats(p.n_cols, 2), norm = random_floats(p.n_cols, 3), bias = random_floats(p.n_rows, 4);
  const NormedInput in = normed_input(x, norm, double(p.eps));
  DecodeHeadArgs args = {.weights = upload_matrix(gpu, m), .bias = p.has_bias ? gpu.upload(bias) : nullptr, .x = gpu.upload(in.bytes),
                         .y = gpu.alloc<float>(p.n_rows + 1), .sample = {}};
  if (p.n_ring_slots != 0)
    args.sample = {.scratch = gpu.upload_value(ArgmaxScratch{}), .state = gpu.upload_value(StepState{.position = 5, .n_tokens = 1, .token = -1, .step_idx = 0}),
                   .ring = gpu.upload(std::vector<uint64_t>(p.n_ring_slots, 0)), .nan_step = gpu.upload_value(uint32_t{0})};
  gpu.run(spec, args);
  ref::Vec want = ref::matmul(m.values, in.values, p.n_rows, p.n_cols), bound = decode_dot_bound(m, in.values, rms_roundings(p.n_cols));
  for (uint32_t r = 0; r < p.n_rows && p.has_bias; ++r)
    want[r] += double(bias[r]), bound[r] += 2 * kRoundF32 * (std::fabs(want[r]) + std::fabs(double(bias[r])));
  std::vector<float> y = gpu.download(args.y, p.n_rows + 1);
  EXPECT_EQ(y.back(), unwritten());
  y.pop_back();
  EXPECT_TRUE(is_close(y, want, bound));
  if (p.n_ring_slots == 0) return;
  const auto best = uint32_t(std::max_element(y.begin(), y.end()) - y.begin());
  for (uint32_t step = 0; step < 3; ++step) {   // the scratch is left zeroed, so that the next launch finds its own maximum
    const StepState state = gpu.download(args.sample.state, 1)[0];
    EXPECT_EQ(state.token, int32_t(best));
    EXPECT_EQ(state.position, 6 + int32_t(step));
    EXPECT_EQ(state.step_idx, step + 1);
    EXPECT_EQ(gpu.download(args.sample.ring, p.n_ring_slots)[step % p.n_ring_slots], uint64_t{step + 1} << 32 | best);
    gpu.run(spec, args);
  }
  EXPECT_EQ(gpu.download(args.sample.nan_step, 1)[0], 0u);
}

TEST(DecodeHeadDevice, SamplesTheLargestLogit) {
  SJ_SKIP_WITHOUT_GPU();
  check_head({.dtype = DType::kQ8_0, .n_rows = 701, .n_cols = 576, .has_bias = true, .eps = 1e-5f, .n_ring_slots = 2}, 1);
  check_head({.dtype = DType::kQ6_K, .n_rows = 257, .n_cols = 512, .eps = 1e-6f, .n_ring_slots = 4}, 170);
}

TEST(DecodeHeadDevice, ReportsNaNs) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  const DecodeHeadParams p = {.dtype = DType::kQ8_0, .n_rows = 70, .n_cols = 64, .has_bias = true, .eps = 1e-5f, .n_ring_slots = 2};
  std::vector<float> bias(p.n_rows, 0.0f);
  bias[69] = std::numeric_limits<float>::quiet_NaN();
  bias[33] = 1e6f;
  const DecodeHeadArgs args = {.weights = upload_matrix(gpu, random_matrix(p.dtype, p.n_rows, p.n_cols, 1)), .bias = gpu.upload(bias),
                               .x = gpu.upload(normed_input(random_floats(64, 2), random_floats(64, 3), 1e-5).bytes), .y = gpu.alloc<float>(p.n_rows),
                               .sample = {.scratch = gpu.upload_value(ArgmaxScratch{}), .state = gpu.upload_value(StepState{.position = 0, .n_tokens = 1, .token = 0, .step_idx = 0}),
                                          .ring = gpu.upload(std::vector<uint64_t>(2, 0)), .nan_step = gpu.upload_value(uint32_t{0})}};
  gpu.run(decode_head_spec(p, gpu.device()), args);
  EXPECT_EQ(gpu.download(args.sample.state, 1)[0].token, 33) << "a NaN never wins";
  EXPECT_EQ(gpu.download(args.sample.nan_step, 1)[0], 1u);
}

TEST(DecodeHeadDevice, MatchesF64WithRowsThatFillNoTile) {
  SJ_SKIP_WITHOUT_GPU();
  check_head({.dtype = DType::kQ6_K, .n_rows = 257, .n_cols = 512, .eps = 1e-6f}, 170);                       // most warps have no rows
  check_head({.dtype = DType::kQ8_0, .n_rows = 701, .n_cols = 576, .has_bias = true, .eps = 1e-5f}, 1);       // 24 rows a warp, a ring's second turn
  check_head({.dtype = DType::kQ4_K, .n_rows = 1023, .n_cols = 1280, .eps = 1e-5f}, 1);
  check_head({.dtype = DType::kQ4_0, .n_rows = 1, .n_cols = 32, .eps = 1e-5f}, 170);
}

TEST(DecodeHeadDevice, MatchesF64WithEachTunableAtItsExtremes) {
  SJ_SKIP_WITHOUT_GPU();
  const DecodeHeadParams p = {.dtype = DType::kQ8_0, .n_rows = 701, .n_cols = 576, .has_bias = true, .eps = 1e-5f};
  with_extreme_tunings(decode_head_spec(p, with_sms(KernelRunner().device(), 1)), [&](const Tuning& tuning) { check_head(p, 1, tuning); });
}

TEST(DecodeHeadDevice, WideRowsUseSmallSlots) {
  SJ_SKIP_WITHOUT_GPU();
  KernelRunner gpu;
  DeviceInfo device = gpu.device();
  device.smem_per_block_bytes = 101376;
  const DecodeHeadParams p = {.dtype = DType::kQ8_0, .n_rows = 70, .n_cols = 5120, .eps = 1e-6f};
  EXPECT_EQ(baked_int(decode_head_spec(p, device), "kSlotRows"), 1);
  check_head(p, 1);
}

}  // namespace
}  // namespace sj::test::decode_matmul_test
