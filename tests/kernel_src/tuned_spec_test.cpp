// How specs declare tunables and take the values that a sweep chose.
#include "kernel_src/tuned_spec.h"

#include <functional>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "jit/base/log.h"
#include "kernel_src/decode_stages_spec.h"
#include "tests/support/error_checks.h"

namespace sj::tuned_spec_test {
namespace {

using test::throws_error;

/// A family with one tunable that has a rule of its own and one rule for both.
KernelSpec tile_spec(const Tuning& tuning) {
  return tuned_spec(tuning, "tile: 64", [](TunePick& pick) -> KernelSpec {
    const uint32_t rows = pick("kRows", {8, 16, 32}, 16), warps = pick("kWarps", {4, 8}, 4);
    if (rows * warps > 128) throw Error(ErrorKind::kUnsupported, "tile: too large");
    return {.source = "tile.cu", .entry = "sj_tile", .baked = {{"kRows", rows}, {"kDim", 64}, {"kWarps", warps}}};
  });
}

Tuning chosen(TuneValues values, bool is_strict = false) { return {.chosen = {{"tile: 64", std::move(values)}}, .is_strict = is_strict}; }

TEST(TunedSpec, WithoutChoiceHasDefaultsAndDeclaresItsTunables) {
  const KernelSpec spec = tile_spec({});
  EXPECT_EQ(tune_values(spec), (TuneValues{{"kRows", 16}, {"kWarps", 4}}));
  EXPECT_EQ(spec.tune_key, "tile: 64");
  EXPECT_FALSE(spec.is_tuned);
  ASSERT_EQ(spec.tunables.size(), 2u);
  EXPECT_EQ(spec.tunables[0], (Tunable{"kRows", {8, 16, 32}}));
}

TEST(TunedSpec, TakesWhatWasChosenForItsKeyOnly) {
  const KernelSpec spec = tile_spec(chosen({{"kRows", 8}}));
  EXPECT_EQ(tune_values(spec), (TuneValues{{"kRows", 8}, {"kWarps", 4}})) << "a tunable that nothing was chosen for has its default";
  EXPECT_TRUE(spec.is_tuned);
  EXPECT_FALSE(tile_spec({.chosen = {{"tile: 128", {{"kRows", 8}}}}}).is_tuned);
}

TEST(TunedSpec, InadmissibleChoicesAreErrorsWhenStrict) {
  EXPECT_TRUE(throws_error([] { tile_spec(chosen({{"kRows", 24}}, true)); }, ErrorKind::kUsage,
                       "tuned values of tile: 64: kRows: expected one of 8, 16, 32, found 24"));
  EXPECT_TRUE(throws_error([] { tile_spec(chosen({{"kRows", 32}, {"kWarps", 8}}, true)); }, ErrorKind::kUsage, "tile: too large"));
  EXPECT_TRUE(throws_error([] { tile_spec(chosen({{"kCols", 1}}, true)); }, ErrorKind::kUsage, "kCols: the kernel has no such tunable"));
}

TEST(TunedSpec, InadmissibleChoicesAreWarningsElse) {
  std::string log;
  set_log_sink([&](std::string_view line) { log += line; });
  const KernelSpec spec = tile_spec(chosen({{"kRows", 32}, {"kWarps", 8}}));
  set_log_sink(nullptr);
  EXPECT_EQ(tune_values(spec), tune_values(tile_spec({})));
  EXPECT_FALSE(spec.is_tuned);
  EXPECT_NE(log.find("tuned values of tile: 64: tile: too large; its defaults are used"), std::string::npos) << log;
}

TEST(TunedSpec, CombinationsBeginWithTheSpecsOwn) {
  const std::vector<TuneValues> all = tune_combinations(tile_spec({}));
  ASSERT_EQ(all.size(), 6u);
  EXPECT_EQ(all[0], (TuneValues{{"kRows", 16}, {"kWarps", 4}}));
  EXPECT_EQ(std::set<TuneValues>(all.begin(), all.end()).size(), 6u);
  EXPECT_EQ(tune_text(all[0]), "kRows=16 kWarps=4");
}

/// Every choice that a decode stage declares makes a spec by itself, on every card.
TEST(TunedSpec, DeclaredChoicesOfTheDecodeStagesAreAdmissible) {
  for (const std::string& name : device_profile_names()) {
    const DeviceInfo device = require_device_profile(name);
    const std::vector<std::function<KernelSpec(const Tuning&)>> makers = {
        [&](const Tuning& t) { return decode_gemv_spec({.matrices = {{DType::kQ4_K, 4096}, {DType::kQ6_K, 512}}, .n_cols = 2048, .is_normed = true}, device, t); },
        [&](const Tuning& t) { return decode_gemv_spec({.matrices = {{DType::kQ4_K, 2048}}, .n_cols = 4096, .finishes_rows = true}, device, t); },
        [&](const Tuning& t) { return decode_glu_spec({.n_cols = 2048, .n_ff = 768, .n_experts = 128, .n_used = 8}, device, t); },
        [&](const Tuning& t) { return decode_moe_down_spec({DType::kQ6_K, 2048, 768, 128, 8}, device, t); },
        [&](const Tuning& t) { return decode_router_spec({2048, 128}, t); },
        [&](const Tuning& t) { return decode_head_spec({.n_rows = 151936, .n_cols = 2048}, device, t); },
        [&](const Tuning& t) { return decode_attention_spec({.n_head = 32, .n_head_kv = 4, .head_dim = 128, .n_rot = 128, .max_tokens = 5120}, device, t); }};
    for (const auto& make : makers) {
      const KernelSpec spec = make({});
      EXPECT_GE(spec.tunables.size(), 1u) << spec.tune_key;
      for (const Tunable& tunable : spec.tunables)
        for (const int64_t choice : tunable.choices) {
          SCOPED_TRACE(fmt::format("{} on {}: {}={}", spec.tune_key, name, tunable.name, choice));
          const Tuning tuning{.chosen = {{spec.tune_key, {{tunable.name, choice}}}}, .is_strict = true};
          KernelSpec tuned;
          ASSERT_NO_THROW(tuned = make(tuning));
          EXPECT_EQ(tune_values(tuned).at(tunable.name), choice);
          EXPECT_LE(tuned.launch.dynamic_smem_bytes, device.smem_per_block_bytes);
        }
    }
  }
}

}  // namespace
}  // namespace sj::tuned_spec_test
