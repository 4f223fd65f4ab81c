// The arena never gives one byte to two live values; states of several plans meet; what does not fit says so.
#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/lowering.h"
#include "runtime/planner.h"
#include "small_models.h"

namespace sj::memory_plan_test {
namespace {

void expect_no_overlap(const Lowered& lowered) {
  const ArenaPlan plan = plan_arena(lowered);
  const std::vector<Lifetime> lifetimes = value_lifetimes(lowered);
  for (size_t a = 0; a < lowered.values.size(); ++a) {
    if (!lifetimes[a].is_used) continue;
    EXPECT_EQ(plan.offsets[a] % kBufferAlignBytes, 0u);
    EXPECT_LE(plan.offsets[a] + lowered.values[a].n_bytes, plan.n_bytes);
    for (size_t b = a + 1; b < lowered.values.size(); ++b) {
      if (!lifetimes[b].is_used || !lifetimes[a].overlaps(lifetimes[b])) continue;
      const bool is_apart = plan.offsets[a] + lowered.values[a].n_bytes <= plan.offsets[b] ||
                            plan.offsets[b] + lowered.values[b].n_bytes <= plan.offsets[a];
      EXPECT_TRUE(is_apart) << lowered.values[a].name << " and " << lowered.values[b].name;
    }
  }
}

TEST(ArenaPlan, LiveValuesNeverOverlapInRealSteps) {
  for (const bool is_moe : {false, true})
    for (const uint32_t n_tokens : {1u, 64u}) {
      const ModelDesc model = test::small_model({.n_layers = 4, .is_moe = is_moe, .has_qk_norm = true, .has_post_norm = true});
      const DeviceInfo device = test::small_device();
      expect_no_overlap(lower_graph(test::small_graph(model, n_tokens), model, device, {}));
    }
}

TEST(ArenaPlan, LiveValuesNeverOverlapInRandomSteps) {
  std::mt19937 rng(7);
  for (int trial = 0; trial < 50; ++trial) {
    Lowered lowered;
    for (int i = 0; i < 40; ++i) lowered.values.push_back({"v" + std::to_string(i), rng() % 5000});
    for (int i = 0; i < 60; ++i) {
      LoweredLaunch& launch = lowered.launches.emplace_back();
      for (int j = 0; j < 3; ++j) launch.patches.push_back({0, {BufferKind::kValue, static_cast<uint32_t>(rng() % 40), 0}});
    }
    expect_no_overlap(lowered);
  }
}

TEST(ArenaPlan, SizeDoesNotGrowWithLayers) {
  const DeviceInfo device = test::small_device();
  const auto arena_bytes = [&](uint32_t n_layers) {
    const ModelDesc model = test::small_model({.n_layers = n_layers});
    return plan_arena(lower_graph(test::small_graph(model), model, device, {})).n_bytes;
  };
  EXPECT_EQ(arena_bytes(2), arena_bytes(20));
}

TEST(StatePlan, StepsShareStatesByKeyAtTheLargestSize) {
  const ModelDesc model = test::small_model();
  const DeviceInfo device = test::small_device();
  const std::vector<Lowered> steps = {lower_graph(test::small_graph(model), model, device, {}),
                                      lower_graph(test::small_graph(model, 32, true), model, device, {})};
  const StatePlan plan = plan_states(steps);
  EXPECT_EQ(plan.require("logits").n_bytes, 32u * 128 * 4);
  EXPECT_EQ(plan.require("token_ring").home, StateHome::kMappedHost);
  EXPECT_FALSE(plan.require("page_table").init.empty());
  for (const auto& [a, x] : plan.places)
    for (const auto& [b, y] : plan.places)
      if (a != b && x.home == y.home) {
        EXPECT_TRUE(x.offset_bytes + x.n_bytes <= y.offset_bytes || y.offset_bytes + y.n_bytes <= x.offset_bytes) << a << " and " << b;
      }
  EXPECT_THROW(plan.require("no such state"), Error);
}

TEST(StatePlan, DifferentContentForOneKeyIsOurMistake) {
  Lowered a, b;
  a.states.push_back({"table", 4, StateHome::kDevice, std::vector<std::byte>(4, std::byte{1})});
  b.states.push_back({"table", 4, StateHome::kDevice, std::vector<std::byte>(4, std::byte{2})});
  EXPECT_THROW(plan_states(std::vector<Lowered>{a, b}), Error);
}

TEST(RequireFits, SaysNeededFreeAndTheContextThatFits) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  const MemoryNeeds needs{.weight_bytes = 4 * kGiB, .kv_bytes = 8 * kGiB, .state_bytes = 0, .arena_bytes = kGiB / 2,
                          .kv_bytes_per_page = 8 * kGiB / 1024};
  EXPECT_NO_THROW(require_fits(needs, 13 * kGiB, 16 * kGiB, "card"));
  try {
    require_fits(needs, 8 * kGiB, 16 * kGiB, "card");
    FAIL() << "12.6 GiB fit 8 GiB";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCuda);
    EXPECT_EQ(error.message(),
              "out of GPU memory: needed 12.56 GiB (weights 4.00 GiB, KV cache 8.00 GiB, activations 512.0 MiB, other 64.0 MiB), "
              "free 8.00 GiB of 16.00 GiB on card; a context of 28160 tokens would fit (--ctx 28160)");
  }
}

TEST(RequireFits, ProposesTheCpuWhenWeightsAloneAreTooLarge) {
  try {
    require_fits({.weight_bytes = 1000 << 20, .kv_bytes = 64 << 20, .kv_bytes_per_page = 1 << 20}, 500 << 20, 600 << 20, "card");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("; --device cpu needs no GPU memory"), std::string::npos) << error.message();
  }
  try {
    require_fits({.weight_bytes = 1000 << 20}, 500 << 20, 600 << 20, "card", "take less");
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(error.message().ends_with("on card; take less")) << error.message();
  }
}

TEST(KernelTable, LayersShareTheirKernels) {
  const DeviceInfo device = test::small_device();
  const auto n_kernels = [&](uint32_t n_layers) {
    const ModelDesc model = test::small_model({.n_layers = n_layers});
    const std::vector<Lowered> steps = {lower_graph(test::small_graph(model), model, device, {})};
    const KernelTable table = collect_kernels(steps);
    EXPECT_EQ(table.of_launch[0].size(), steps[0].launches.size());
    return table.specs.size();
  };
  EXPECT_EQ(n_kernels(1), n_kernels(5));
}

TEST(BytesText, PicksTheUnit) {
  EXPECT_EQ(bytes_text(12), "12 bytes");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(uint64_t{5} << 30), "5.00 GiB");
}

}  // namespace
}  // namespace sj::memory_plan_test
