// Every kernel of real models' steps compiles for every target, within 99 KB of shared memory and without spills.
// SPARKJIT_GOLDENS and SPARKJIT_TEST_MODELS name the folders of the models.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "cache/kernel_cache.h"
#include "jit/device_info.h"
#include "runtime/cuda_session.h"
#include "runtime/planner.h"
#include "tests/support/golden_models.h"

namespace sj::kernels_test {
namespace {

/// GB10's compiler target differs from the RTX 5090's by its name: the golden models show its tile sizes.
std::vector<std::string> model_paths(const std::string& device) {
  std::vector<std::string> paths;
  const auto add_folder = [&](const std::string& dir) {
    if (dir.empty() || !std::filesystem::is_directory(dir)) return;
    for (const auto& entry : std::filesystem::directory_iterator(dir))
      if (entry.path().extension() == ".gguf") paths.push_back(entry.path().string());
  };
  add_folder(test::goldens_dir());
  if (const char* dir = std::getenv("SPARKJIT_TEST_MODELS"); dir != nullptr && device != "gb10") add_folder(dir);
  return paths;
}

class ModelKernels : public testing::TestWithParam<std::string> {};

TEST_P(ModelKernels, CompileWithinTheCardsLimits) {
  const DeviceInfo device = require_device_profile(GetParam());
  const std::vector<std::string> paths = model_paths(GetParam());
  if (paths.empty()) GTEST_SKIP() << "no models: set SPARKJIT_GOLDENS or SPARKJIT_TEST_MODELS";
  std::string why;
  if (find_nvrtc({}, &why) == nullptr) GTEST_SKIP() << why;
  KernelCache cache({.show_progress = false});
  for (const std::string& path : paths) {
    const GgufFile file = open_gguf(path);
    const std::vector<Lowered> steps = lower_steps(describe_model(file), device, {});
    const KernelTable table = collect_kernels(steps);
    const BuiltKernels built = cache.build_kernels(table.specs, device.target());
    for (size_t i = 0; i < table.specs.size(); ++i) {
      const Cubin& cubin = *built.cubins[i];
      EXPECT_LE(cubin.resources.static_smem_bytes + table.specs[i].launch.dynamic_smem_bytes, device.smem_per_block_bytes) << cubin.label;
      EXPECT_TRUE(table.specs[i].may_spill || cubin.resources.spill_bytes == 0) << cubin.label;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cards, ModelKernels, testing::Values("h200", "rtx5090", "gb10"), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sj::kernels_test
