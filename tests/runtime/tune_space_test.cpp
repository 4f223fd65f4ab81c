// What a sweep looks at: every tunable kernel once, the default first, no two candidates alike; and what need not run, with the reason.
#include "runtime/tune_space.h"

#include <gtest/gtest.h>

#include <set>

#include "models/synth.h"
#include "runtime/session_steps.h"
#include "tests/support/error_checks.h"

namespace sj::tune_space_test {
namespace {

ModelDesc shape_model(const std::string& name, uint32_t n_layers) {
  return describe_model(synthetic_gguf(load_shape(name), {.path = {}, .n_layers = n_layers}));
}

TuneSpace moe_space(uint32_t max_ctx_tokens, std::vector<TuneContext> contexts) {
  return TuneSpace(shape_model("qwen3-30b-a3b", 8), require_device_profile("h200"), ActivationMode::kAuto, max_ctx_tokens, std::move(contexts));
}

TEST(TuneSpace, ContextsAreThoseOfSessions) {
  const std::vector<TuneContext> all = tune_contexts(4096, {});
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].attend_tokens, 192u);
  EXPECT_EQ(all[0].depth_tokens, 96u);
  EXPECT_EQ(all[0].sample_depths, (std::vector<uint32_t>{32, 96, 160}));
  EXPECT_EQ(all[1].attend_tokens, 1024u);
  EXPECT_EQ(all[1].depth_tokens, 608u);
  EXPECT_EQ(all[2].attend_tokens, 0u) << "the last serves the whole context";
  EXPECT_EQ(all[2].depth_tokens, 2560u);
  const std::vector<uint32_t> depths = {100, 130, 4000};
  const std::vector<TuneContext> chosen = tune_contexts(4096, depths);
  ASSERT_EQ(chosen.size(), 2u) << "100 and 130 are served by one step";
  EXPECT_EQ(chosen[0].depth_tokens, 100u);
  EXPECT_EQ(chosen[0].sample_depths, (std::vector<uint32_t>{100}));
  EXPECT_EQ(chosen[1].attend_tokens, 0u);
  const std::vector<uint32_t> deep = {4096};
  EXPECT_TRUE(test::throws_error([&] { tune_contexts(4096, deep); }, ErrorKind::kUsage, "--depth", "4096", "--ctx"));
}

TEST(TuneSpace, EveryTunableKernelOnceWithItsDefaultFirst) {
  TuneSpace space = moe_space(4096, tune_contexts(4096, {}));
  const std::vector<TuneKey> keys = space.enumerate("");
  std::set<std::string> names, expected;
  for (const TuneKey& key : keys) EXPECT_TRUE(names.insert(key.name).second) << key.name << " twice";
  for (const Lowered& step : lower_steps(space.model(), space.device(), {.max_ctx_tokens = 4096}))
    for (const LoweredLaunch& launch : step.launches)
      if (!launch.spec.tune_key.empty()) expected.insert(launch.spec.tune_key);
  EXPECT_EQ(names, expected);
  size_t n_candidates = 0;
  for (const TuneKey& key : keys) {
    ASSERT_FALSE(key.candidates.empty());
    EXPECT_TRUE(key.candidates.front().is_default);
    EXPECT_GT(key.cost.bytes, 0) << key.name;
    EXPECT_GT(key.n_launches, 0u);
    std::set<TuneValues> values;
    std::set<std::string> kernels;
    for (const TuneCandidate& c : key.candidates) {
      EXPECT_EQ(c.is_default, &c == &key.candidates.front());
      EXPECT_TRUE(values.insert(c.values).second);
      if (c.is_pruned()) {
        EXPECT_FALSE(c.why.empty());
        continue;
      }
      ++n_candidates;
      EXPECT_EQ(tune_values(c.spec), c.values);
      EXPECT_EQ(c.spec.tune_key, key.name);
      EXPECT_TRUE(kernels.insert(baked_header(c.spec)).second) << "the same kernel twice: " << tune_text(c.values);
    }
  }
  EXPECT_GT(n_candidates, keys.size()) << "only defaults";
  // Attention is laid out for a number of positions: each context has its own, the others are measured in the first.
  const auto n_in = [&](size_t context) { return std::count_if(keys.begin(), keys.end(), [&](const TuneKey& k) { return k.context == context; }); };
  EXPECT_GT(n_in(0), 5);
  EXPECT_EQ(n_in(1), 1);
  EXPECT_EQ(n_in(2), 1);
}

TEST(TuneSpace, BuffersFitEveryCandidate) {
  TuneSpace space = moe_space(4096, {{0, 3000}});
  const std::vector<TuneKey> keys = space.enumerate("attention");
  ASSERT_EQ(keys.size(), 1u);
  const Lowered& widest = space.widest()[0];
  bool is_wider_somewhere = false;
  for (const TuneCandidate& c : keys[0].candidates) {
    if (c.is_pruned()) continue;
    Tuning tuning;
    tuning.chosen[keys[0].name] = c.values;
    const Lowered step = space.lower(0, tuning);
    for (size_t i = 0; i < step.values.size(); ++i) {
      EXPECT_LE(step.values[i].n_bytes, widest.values[i].n_bytes);
      is_wider_somewhere |= step.values[i].n_bytes < widest.values[i].n_bytes;
    }
  }
  EXPECT_TRUE(is_wider_somewhere) << "partial results of more splits take more";
}

TEST(TuneSpace, AGlobThatMatchesNothingNamesWhatThereIs) {
  TuneSpace space = moe_space(256, {{0, 100}});
  EXPECT_TRUE(test::throws_error([&] { space.enumerate("no such kernel"); }, ErrorKind::kUsage, "--kernels", "no such kernel", "decode_glu: Q4_K 2x768x2048, 8 of 128 experts"));
  EXPECT_EQ(space.enumerate("decode_glu*").size(), 1u);
}

TEST(TuneSpace, Globs) {
  EXPECT_TRUE(matches_glob("router", "decode_router: 128x2048")) << "without a star any part matches";
  EXPECT_FALSE(matches_glob("decode", "attention"));
  EXPECT_TRUE(matches_glob("decode_*x2048", "decode_router: 128x2048"));
  EXPECT_FALSE(matches_glob("router*", "decode_router: 128x2048")) << "with one the whole name has to match";
  EXPECT_TRUE(matches_glob("*a*b*c", "xxaxxbxbxxc"));
  EXPECT_FALSE(matches_glob("*a*b*c", "xxaxxcxb"));
  EXPECT_TRUE(matches_glob("decode_gl?*", "decode_glu: Q4_K"));
  EXPECT_TRUE(matches_glob("*", ""));
}

TEST(ResidentBlocks, AreLimitedByWhatRunsOutFirst) {
  const DeviceInfo h200 = require_device_profile("h200"), rtx5090 = require_device_profile("rtx5090");
  const auto blocks = [](const DeviceInfo& device, uint32_t registers, uint32_t threads, uint32_t static_smem, uint32_t dynamic_smem) {
    return resident_blocks(device, {.registers = registers, .static_smem_bytes = static_smem}, {.block = {threads}, .dynamic_smem_bytes = dynamic_smem});
  };
  EXPECT_EQ(blocks(h200, 32, 256, 0, 0), 8u) << "2048 threads";
  EXPECT_EQ(blocks(rtx5090, 32, 256, 0, 0), 6u) << "1536 threads";
  EXPECT_EQ(blocks(h200, 16, 32, 0, 0), 32u) << "blocks";
  EXPECT_EQ(blocks(rtx5090, 16, 32, 0, 0), 24u) << "blocks";
  EXPECT_EQ(blocks(h200, 128, 256, 0, 0), 2u) << "65536 registers";
  EXPECT_EQ(blocks(h200, 129, 256, 0, 0), 1u) << "129 registers take as many as 136";
  EXPECT_EQ(blocks(h200, 255, 1024, 0, 0), 0u) << "more registers than there are";
  EXPECT_EQ(blocks(h200, 32, 128, 1024, 76 * 1024 - 2048), 3u) << "228 KB, 1 KB a block is the system's";
  EXPECT_EQ(blocks(rtx5090, 32, 128, 1024, 50 * 1024), 1u);
}

/// A default that reads 40 MB with two blocks an SM, and a candidate that a test bends.
struct Pair {
  DeviceInfo device = require_device_profile("h200");
  TuneCandidate base, candidate;
  Pair() {
    base.is_default = true;
    base.spec.launch = {.grid = {264}, .block = {256}, .dynamic_smem_bytes = 40000};
    base.spec.cost.bytes = 40e6;
    base.resources = {.registers = 64};
    base.blocks_per_sm = 2;
    candidate = base;
    candidate.is_default = false;
  }
  PruneReason verdict() {
    prune_compiled(candidate, base, device);
    EXPECT_EQ(candidate.why.empty(), !candidate.is_pruned());
    return candidate.pruned;
  }
};

TEST(PruneCompiled, KeepsWhatIsLikeTheDefault) { EXPECT_EQ(Pair().verdict(), PruneReason::kNone); }

TEST(PruneCompiled, NamesWhatIsWrong) {
  Pair p;
  p.candidate.resources.spill_bytes = 8;
  EXPECT_EQ(p.verdict(), PruneReason::kSpills);
  p = Pair();
  p.base.resources.spill_bytes = p.candidate.resources.spill_bytes = 8;
  EXPECT_EQ(p.verdict(), PruneReason::kNone) << "the default spills too";
  p = Pair();
  p.candidate.spec.launch.dynamic_smem_bytes = p.device.smem_per_block_bytes;
  p.candidate.resources.static_smem_bytes = 16;
  EXPECT_EQ(p.verdict(), PruneReason::kSharedMemory);
  p = Pair();
  p.candidate.blocks_per_sm = 0;
  EXPECT_EQ(p.verdict(), PruneReason::kNotResident);
  p = Pair();
  p.candidate.spec.launch.grid = {16};   // 2.5 MB for each of 16 SMs: 25 us, instead of 40 MB at 4.8 TB/s: 8.3 us
  p.candidate.spec.launch.dynamic_smem_bytes = 200000;
  EXPECT_EQ(p.verdict(), PruneReason::kSlowByModel);
  p = Pair();
  p.candidate.spec.launch.grid = {26400};   // 100 rounds
  EXPECT_EQ(p.verdict(), PruneReason::kSlowByModel);
  p = Pair();
  p.candidate.spec.launch.dynamic_smem_bytes = 6000;   // 1.6 MB in flight; 4.8 TB/s times 0.8 us are 3.8 MB
  EXPECT_EQ(p.verdict(), PruneReason::kFewInFlight);
  p = Pair();
  p.candidate.spec.launch.dynamic_smem_bytes = 10000;
  EXPECT_EQ(p.verdict(), PruneReason::kNone) << "a quarter of the default's, but more than half of what the memory can answer";
}

TEST(PruneCompiled, NeverTheDefault) {
  Pair p;
  p.candidate.is_default = true;
  p.candidate.resources.spill_bytes = 8;
  EXPECT_EQ(p.verdict(), PruneReason::kNone);
}

}  // namespace
}  // namespace sj::tune_space_test
