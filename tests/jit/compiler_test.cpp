#include "jit/compiler.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "jit/base/file.h"
#include "jit/base/parallel.h"
#include "tests/support/error_checks.h"
#include "tests/support/kernel_runner.h"
#include "tests/support/temp_folder.h"

namespace sj::compiler_test {
namespace {

using test::LogCapture;
using test::throws_error;

constexpr const char* kScale = R"(
#include "sj_baked.h"
#include "twice.cuh"
extern "C" __global__ void sj_scale(float* x) {
  __shared__ float row[kThreads];
  row[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = twice(row[kThreads - 1 - threadIdx.x]) * sj::baked::kFactor;
}
)";

SourceSet scale_sources() {
  return SourceSet(SourceSet::Files{{"scale.cu", kScale}, {"device/twice.cuh", "#pragma once\nconstexpr int kThreads = 128;\nfloat twice(float v) { return v + v; }\n"}});
}

KernelSpec spec_of(std::string source, std::string entry, std::vector<Baked> baked = {}) {
  return {.source = std::move(source), .entry = std::move(entry), .baked = std::move(baked), .launch = {}, .cost = {}};
}

KernelSpec scale_spec(double factor = 3) { return spec_of("scale.cu", "sj_scale", {{"kFactor", factor}}); }

class CompilerTest : public testing::Test {
 protected:
  void SetUp() override { SJ_SKIP_WITHOUT_NVRTC(); }
  static Cubin compile_one(const SourceSet& sources, const KernelSpec& spec, const std::string& target = "sm_120f", const std::string& dump = {}) {
    return compile(require_nvrtc(), {.spec = spec, .sources = sources, .target = target, .dump_dir = dump});
  }
};

TEST_F(CompilerTest, MakesACubinForEachTarget) {
  const SourceSet sources = scale_sources();
  for (const auto& [target, arch] : {std::pair{"sm_90", 90u}, {"sm_120f", 120u}, {"sm_121f", 121u}}) {
    const Cubin cubin = compile_one(sources, scale_spec(), target);
    EXPECT_EQ(cubin_arch(cubin.bytes), arch);
    EXPECT_EQ(cubin.target, target);
    EXPECT_EQ(cubin.label, "scale[kFactor=3]");
    EXPECT_EQ(cubin.resources.static_smem_bytes, 512u) << target;
    EXPECT_EQ(cubin.resources.spill_bytes, 0u);
    EXPECT_GE(cubin.resources.registers, 4u);
    EXPECT_LE(cubin.resources.registers, 32u);
    EXPECT_GT(cubin.compile_us, 0);
  }
}

TEST_F(CompilerTest, EqualRequestsGiveEqualBytesAlsoInParallel) {
  const SourceSet sources = scale_sources();
  const Cubin first = compile_one(sources, scale_spec());
  std::vector<Cubin> others(6);
  parallel_for(others.size(), 3, [&](uint64_t i) { others[i] = compile_one(sources, scale_spec()); });
  for (const Cubin& other : others) EXPECT_EQ(other.bytes, first.bytes);
  EXPECT_NE(compile_one(sources, scale_spec(4)).bytes, first.bytes);
}

// The registers, stack and shared memory read from the image are those that ptxas prints.
TEST_F(CompilerTest, ResourcesAgreeWithPtxas) {
  const SourceSet sources(SourceSet::Files{{"heavy.cu", R"(
extern "C" __global__ void __launch_bounds__(1024) sj_heavy(float* p, int n) {
  __shared__ float s[300];
  float a[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) a[i] = p[i * n];
#pragma unroll 1
  for (int r = 0; r < n; ++r)
#pragma unroll
    for (int i = 0; i < 128; ++i) a[i] = a[i] * a[(i + 7) % 128] + p[r];
  float t = 0;
#pragma unroll
  for (int i = 0; i < 128; ++i) t += a[i];
  s[threadIdx.x % 300] = t;
  __syncthreads();
  p[threadIdx.x] = s[(threadIdx.x + 1) % 300];
})"}});
  const Nvrtc& nvrtc = require_nvrtc();
  for (const std::string& target : test::all_targets()) {
    const LogCapture capture;
    const Cubin cubin = compile_one(sources, spec_of("heavy.cu", "sj_heavy"), target);
    nvrtcProgram program = nullptr;
    const std::string text = *sources.find_text("heavy.cu");
    ASSERT_EQ(nvrtc.nvrtcCreateProgram(&program, text.c_str(), "heavy.cu", 0, nullptr, nullptr), NVRTC_SUCCESS);
    const std::string arch = "--gpu-architecture=" + target;
    const char* options[] = {arch.c_str(), "--ptxas-options=-v", "--device-as-default-execution-space"};
    ASSERT_EQ(nvrtc.nvrtcCompileProgram(program, 3, options), NVRTC_SUCCESS);
    size_t n = 0;
    nvrtc.nvrtcGetProgramLogSize(program, &n);
    std::string log(n, '\0');
    nvrtc.nvrtcGetProgramLog(program, log.data());
    nvrtc.nvrtcDestroyProgram(&program);
    const KernelResources& r = cubin.resources;
    const auto says = [&](const std::string& part) { return log.find(part) != std::string::npos; };
    EXPECT_TRUE(says("Used " + std::to_string(r.registers) + " registers")) << r.registers << log;
    EXPECT_TRUE(says(std::to_string(r.stack_bytes) + " bytes stack frame")) << r.stack_bytes << log;
    EXPECT_TRUE(says(std::to_string(r.static_smem_bytes) + " bytes smem")) << r.static_smem_bytes << log;
    EXPECT_EQ(r.static_smem_bytes, 1200u);
    EXPECT_GT(r.spill_bytes, 0u) << log;  // 64 registers a thread can't hold 128 live values
    EXPECT_EQ(capture.n_with("spills registers"), 1u);
  }
}

TEST_F(CompilerTest, ErrorShowsKernelTargetOptionsLogAndDump) {
  const test::TempFolder folder;
  const SourceSet sources(SourceSet::Files{{"bad.cu", "extern \"C\" __global__ void sj_bad(float* x) { x[0] = undefined_name; }"}});
  EXPECT_TRUE(throws_error([&] { compile_one(sources, spec_of("bad.cu", "sj_bad", {{"kRows", int64_t{7}}}), "sm_120f", folder.path()); },
                           ErrorKind::kCompile, "bad[kRows=7]", "sm_120f", "--gpu-architecture=sm_120f", "undefined_name", "bad.cu(1)",
                           folder.path() + "/sj_bad-"));
  ASSERT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  const std::string dump = read_file(std::filesystem::directory_iterator(folder.path())->path().string());
  EXPECT_NE(dump.find("inline constexpr unsigned kRows = 7;"), std::string::npos);
  EXPECT_NE(dump.find("undefined_name"), std::string::npos);
}

TEST_F(CompilerTest, UnwritableDumpFolderDoesNotHideTheError) {
  const SourceSet sources(SourceSet::Files{{"bad.cu", "extern \"C\" __global__ void sj_bad() { nonsense; }"}});
  EXPECT_TRUE(throws_error([&] { compile_one(sources, spec_of("bad.cu", "sj_bad"), "sm_90", "/no/such/folder"); }, ErrorKind::kCompile, "nonsense"));
}

TEST_F(CompilerTest, FilesOfTheDiskAreNotRead) {
  const test::TempFolder folder;
  atomic_write(folder / "local.cuh", "constexpr int kLocal = 1;");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  const SourceSet sources(SourceSet::Files{{"x.cu", "#include \"local.cuh\"\nextern \"C\" __global__ void sj_x(int* p) { *p = kLocal; }"}});
  EXPECT_TRUE(throws_error([&] { compile_one(sources, spec_of("x.cu", "sj_x")); }, ErrorKind::kCompile, "local.cuh", "may include only"));
  std::filesystem::current_path(before);
}

TEST_F(CompilerTest, UnknownTargetNamesTheKnownOnes) {
  const SourceSet sources = scale_sources();
  EXPECT_TRUE(throws_error([&] { compile_one(sources, scale_spec(), "sm_999f"); }, ErrorKind::kCompile, "sm_999f", "sm_120"));
  EXPECT_TRUE(throws_error([&] { compile_one(sources, scale_spec(), "compute_90"); }, ErrorKind::kCompile, "compute_90", "form"));
}

TEST_F(CompilerTest, MissingEntryIsNamed) {
  const SourceSet sources(SourceSet::Files{{"x.cu", "extern \"C\" __global__ void sj_other() {}"}});
  EXPECT_TRUE(throws_error([&] { compile_one(sources, spec_of("x.cu", "sj_x")); }, ErrorKind::kCompile, "x.cu", "sj_x"));
}

TEST(Cubin, DamagedImageIsRefusedAndNeverRead) {
  SJ_SKIP_WITHOUT_NVRTC();
  const SourceSet sources = scale_sources();
  const Cubin cubin = compile(require_nvrtc(), {.spec = scale_spec(), .sources = sources, .target = "sm_90"});
  EXPECT_EQ(cubin_arch({}), 0u);
  EXPECT_THROW(read_resources(std::span(cubin.bytes).first(63), "sj_scale"), Error);
  // Every cut and many flips: an answer or an Error, never a read outside of the image (the asan build shows it).
  for (size_t n = 0; n < cubin.bytes.size(); n += 7) {
    const std::vector<std::byte> cut(cubin.bytes.begin(), cubin.bytes.begin() + static_cast<ptrdiff_t>(n));
    try {
      read_resources(cut, "sj_scale");
    } catch (const Error&) {
    }
    std::vector<std::byte> flipped = cubin.bytes;
    flipped[n] ^= std::byte{0x80};
    try {
      read_resources(flipped, "sj_scale");
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace sj::compiler_test
