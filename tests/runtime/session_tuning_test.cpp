// Which tuned values a session uses, and that its steps have them.
#include "runtime/session_tuning.h"

#include <gtest/gtest.h>

#include "cache/tuning_db.h"
#include "jit/base/file.h"
#include "models/synth.h"
#include "runtime/options.h"
#include "runtime/session_steps.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::session_tuning_test {
namespace {

constexpr const char* kQkv = "decode_gemv: Q4_K 4096x2048 + Q4_K 512x2048 + Q6_K 512x2048, normed, scores of 128 experts";

DeviceInfo rtx5090() { return require_device_profile("rtx5090"); }

TuneRecord qkv_record(int64_t tile_rows) {
  return {.key = kQkv, .device = rtx5090().name, .driver = "13.0", .arch = "sm_120f", .values = {{"kTileRows", tile_rows}},
          .default_values = {{"kTileRows", 16}}, .default_us = 2, .tuned_us = 1, .noise_us = 0, .objective = "step", .context = "test", .date = "2026"};
}

ModelDesc qwen3_moe() { return describe_model(synthetic_gguf(load_shape("qwen3-30b-a3b"), {.path = {}, .n_layers = 1})); }

const KernelSpec* find_qkv(const std::vector<Lowered>& steps) {
  for (const LoweredLaunch& launch : steps[0].launches)
    if (launch.spec.tune_key == kQkv) return &launch.spec;
  return nullptr;
}

TEST(SessionTuning, TunedValuesReachTheStepAndItsDump) {
  const test::TempFolder folder;
  SessionOptions options;
  options.tuning_path = folder / "tuning.toml";
  write_tuning_db(options.tuning_path, {{qkv_record(8)}});
  const std::vector<Lowered> steps = lower_steps(qwen3_moe(), rtx5090(), options, session_tuning(options, rtx5090(), 13000));
  const KernelSpec* qkv = find_qkv(steps);
  ASSERT_NE(qkv, nullptr);
  EXPECT_TRUE(qkv->is_tuned);
  EXPECT_EQ(tune_values(*qkv).at("kTileRows"), 8);
  EXPECT_EQ(qkv->launch.grid.x, 4096u / 8 + 2 * 512 / 8);
  const std::string text = dump(steps[0]);
  EXPECT_NE(text.find(" tuned: kEarlyChunks=2 kTileRows=8 kWarps=8"), std::string::npos) << text;
  EXPECT_EQ(text.find(" tuned: "), text.rfind(" tuned: ")) << "one kernel is tuned";
}

TEST(SessionTuning, NoneAndOtherCardsHaveDefaults) {
  const test::TempFolder folder;
  SessionOptions options;
  options.tuning_path = folder / "tuning.toml";
  write_tuning_db(options.tuning_path, {{qkv_record(8)}});
  EXPECT_EQ(session_tuning(options, rtx5090(), 0).chosen.size(), 1u);
  EXPECT_TRUE(session_tuning(options, require_device_profile("gb10"), 0).chosen.empty());
  options.tuning_path = "none";
  EXPECT_TRUE(session_tuning(options, rtx5090(), 0).chosen.empty());
}

TEST(SessionTuning, BrokenDatabaseIsAnError) {
  const test::TempFolder folder;
  SessionOptions options;
  options.tuning_path = folder / "tuning.toml";
  atomic_write(options.tuning_path, std::string_view("format = 1\n[[kernel]]\nkey = 3\n"));
  EXPECT_TRUE(test::throws_error([&] { session_tuning(options, rtx5090(), 0); }, ErrorKind::kUsage, "tuning.toml:2", "key: expected a string"));
}

TEST(SessionTuning, TheUsersDatabaseIsFoundBesideTheCache) {
  const test::TempFolder folder;
  const auto resolved = [&](SessionOptions options, const Environment& environment = {}) {
    options.cache_dir = folder.path();
    return resolve_options(options, environment).tuning_path;
  };
  EXPECT_EQ(resolved({}), "shipped") << "no file, no message";
  write_tuning_db(folder / "tuning.toml", {});
  EXPECT_EQ(resolved({}), folder / "tuning.toml");
  EXPECT_EQ(resolved({.may_compile = false}), "shipped") << "kernels that were compiled ahead have no values of this machine's";
  EXPECT_EQ(resolved({}, {.tuning_path = "/t"}), "/t");
  EXPECT_EQ(resolved({.tuning_path = "none"}, {.tuning_path = "/t"}), "none");
}

TEST(SessionTuning, DriversAreNamedAsNvidiaDoes) {
  EXPECT_EQ(tuning_driver(13000), "13.0");
  EXPECT_EQ(tuning_driver(12080), "12.8");
  EXPECT_EQ(tuning_driver(0), "");
}

}  // namespace
}  // namespace sj::session_tuning_test
