#include "cache/kernel_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <thread>

#include "cache/key_lock.h"
#include "jit/base/file.h"
#include "tests/support/error_checks.h"
#include "tests/support/kernel_runner.h"
#include "tests/support/temp_folder.h"

namespace sj::kernel_cache_test {
namespace {

using test::LogCapture;
using test::TempFolder;
using test::throws_error;

TEST(DefaultDirs, FollowTheXdgRules) {
  EXPECT_EQ(default_cache_dir("/x", "/h"), "/x/sparkjit");
  EXPECT_EQ(default_cache_dir("", "/h"), "/h/.cache/sparkjit");
  EXPECT_EQ(default_cache_dir("relative", "/h"), "/h/.cache/sparkjit");
  EXPECT_EQ(default_cache_dir("", ""), "");
  EXPECT_EQ(default_lock_dir("/run/user/7"), "/run/user/7/sparkjit");
  EXPECT_EQ(default_lock_dir(""), "/dev/shm/sparkjit-" + std::to_string(::geteuid()));
}

TEST(KeyLock, IsExclusiveUntilItsEnd) {
  const TempFolder folder;
  {
    const KeyLock first(folder / "locks", "abc1", 0);
    EXPECT_TRUE(first.is_held());
    EXPECT_FALSE(KeyLock(folder / "locks", "abc1", 20'000).is_held());
    EXPECT_TRUE(KeyLock(folder / "locks", "abd1", 0).is_held());
  }
  EXPECT_TRUE(KeyLock(folder / "locks", "abc1", 0).is_held());
}

TEST(KeyLock, FolderOfOthersIsNotUsed) {
  const TempFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0777), 0);
  EXPECT_FALSE(KeyLock(folder.path(), "abc1", 0).is_held());
  EXPECT_FALSE(KeyLock("", "abc1", 0).is_held());
  EXPECT_FALSE(KeyLock("/proc/no/such", "abc1", 0).is_held());
}

TEST(KeyLock, DiesWithItsHolder) {
  const TempFolder folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const KeyLock lock(folder / "locks", "abc1", 0);
    const char held = lock.is_held() ? 'y' : 'n';
    if (::write(ready[1], &held, 1) != 1) ::_exit(1);
    ::pause();
  }
  char held = 0;
  ASSERT_EQ(::read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, 'y');
  EXPECT_FALSE(KeyLock(folder / "locks", "abc1", 0).is_held());
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(KeyLock(folder / "locks", "abc1", 1'000'000).is_held());
}

/// A folder with kernels and one for the cache; each kernel takes about 20 ms to compile.
class KernelCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    SJ_SKIP_WITHOUT_NVRTC();
    std::filesystem::create_directories(folder_ / "kernels/device");
    atomic_write(folder_ / "kernels/scale.cu",
                 "#include \"sj_baked.h\"\n#include \"factor.cuh\"\nextern \"C\" __global__ void sj_scale(float* x) { x[threadIdx.x] *= "
                 "kTwo * sj::baked::kFactor; }\n");
    atomic_write(folder_ / "kernels/device/factor.cuh", "constexpr float kTwo = 2;\n");
  }

  KernelCacheOptions options() const {
    return {.cache_dir = folder_ / "cache", .lock_dir = folder_ / "locks", .kernel_dir = folder_ / "kernels", .show_progress = false};
  }
  static KernelSpec spec(int64_t factor) {
    return {.source = "scale.cu", .entry = "sj_scale", .baked = {{"kFactor", factor}}, .launch = {}, .cost = {}};
  }
  static std::vector<KernelSpec> specs(int64_t n) {
    std::vector<KernelSpec> list;
    for (int64_t i = 1; i <= n; ++i) list.push_back(spec(i));
    return list;
  }

  TempFolder folder_;
};

TEST_F(KernelCacheTest, CompilesOnceThenMemoryThenDisk) {
  std::vector<std::byte> bytes;
  {
    KernelCache cache(options());
    const BuiltKernels cold = cache.build_kernels(specs(3), "sm_120f", 2);
    EXPECT_EQ(cold.stats.n_kernels, 3u);
    EXPECT_EQ(cold.stats.n_compiled, 3u);
    EXPECT_EQ(cold.stats.n_threads, 2u);
    EXPECT_GT(cold.stats.compile_us, 0);
    EXPECT_GT(cold.stats.wall_us, 0);
    const BuiltKernels again = cache.build_kernels(specs(3), "sm_120f", 2);
    EXPECT_EQ(again.stats.n_from_memory, 3u);
    EXPECT_EQ(again.stats.n_compiled, 0u);
    EXPECT_EQ(again.cubins[0], cold.cubins[0]);
    bytes = cold.cubins[2]->bytes;
  }
  KernelCache cache(options());
  const BuiltKernels warm = cache.build_kernels(specs(3), "sm_120f", 2);
  EXPECT_EQ(warm.stats.n_from_disk, 3u);
  EXPECT_EQ(warm.stats.n_compiled, 0u);
  EXPECT_EQ(warm.cubins[2]->bytes, bytes);
  EXPECT_EQ(warm.cubins[2]->label, "scale[kFactor=3]");
}

TEST_F(KernelCacheTest, EqualSpecsShareOneCubin) {
  KernelCache cache(options());
  const BuiltKernels built = cache.build_kernels(std::vector{spec(1), spec(2), spec(1)}, "sm_90");
  EXPECT_EQ(built.stats.n_kernels, 2u);
  EXPECT_EQ(built.cubins[0], built.cubins[2]);
  EXPECT_NE(built.cubins[0], built.cubins[1]);
  EXPECT_EQ(built.cubins[1]->label, "scale[kFactor=2]");
}

TEST_F(KernelCacheTest, NoSpecsIsFine) { EXPECT_TRUE(KernelCache(options()).build_kernels({}, "sm_90").cubins.empty()); }

TEST_F(KernelCacheTest, TargetAndHeaderChangesMiss) {
  KernelCache(options()).require_cubin(spec(1), "sm_120f");
  EXPECT_EQ(KernelCache(options()).build_kernels(specs(1), "sm_121f").stats.n_compiled, 1u);
  atomic_write(folder_ / "kernels/device/factor.cuh", "constexpr float kTwo = 2.5;\n");
  EXPECT_EQ(KernelCache(options()).build_kernels(specs(1), "sm_120f").stats.n_compiled, 1u);
  atomic_write(folder_ / "kernels/device/factor.cuh", "constexpr float kTwo = 2;\n");
  EXPECT_EQ(KernelCache(options()).build_kernels(specs(1), "sm_120f").stats.n_from_disk, 1u) << "content decides, not the date";
}

TEST_F(KernelCacheTest, ThreadsThatWantTheSameKernelCompileItOnce) {
  KernelCache cache(options());
  std::vector<std::shared_ptr<const Cubin>> cubins(8);
  {
    std::vector<std::jthread> threads;
    for (auto& cubin : cubins) threads.emplace_back([&cache, &cubin] { cubin = cache.require_cubin(spec(1), "sm_90"); });
  }
  for (const auto& cubin : cubins) EXPECT_EQ(cubin, cubins[0]);
  EXPECT_EQ(cache.store().stats().n_entries, 1u);
}

TEST_F(KernelCacheTest, DamagedEntryIsCompiledAgain) {
  const LogCapture capture;
  KernelCache(options()).require_cubin(spec(1), "sm_90");
  for (const auto& item : std::filesystem::recursive_directory_iterator(folder_ / "cache"))
    if (item.path().extension() == ".cubin") std::filesystem::resize_file(item.path(), 500);
  EXPECT_EQ(KernelCache(options()).build_kernels(specs(1), "sm_90").stats.n_compiled, 1u);
  EXPECT_EQ(capture.n_with("is damaged"), 1u);
  EXPECT_EQ(KernelCache(options()).build_kernels(specs(1), "sm_90").stats.n_from_disk, 1u);
}

TEST_F(KernelCacheTest, DroppedCubinIsCompiledAgain) {
  const LogCapture capture;
  KernelCache cache(options());
  cache.require_cubin(spec(1), "sm_90");
  cache.drop(spec(1), "sm_90", "the driver refused it");
  EXPECT_EQ(cache.build_kernels(specs(1), "sm_90").stats.n_compiled, 1u);
  EXPECT_EQ(capture.n_with("the driver refused it"), 1u);
}

TEST_F(KernelCacheTest, WorksWithoutADisk) {
  const LogCapture capture;
  KernelCacheOptions without = options();
  without.cache_dir = "";
  KernelCache cache(without);
  EXPECT_EQ(cache.build_kernels(specs(2), "sm_90").stats.n_compiled, 2u);
  EXPECT_EQ(cache.build_kernels(specs(2), "sm_90").stats.n_from_memory, 2u);
}

TEST_F(KernelCacheTest, CachedKernelsNeedNoNvrtc) {
  KernelCache(options()).build_kernels(specs(2), "sm_90");
  KernelCacheOptions hidden = options();
  hidden.libnvrtc_path = "/no/such/libnvrtc.so";
  EXPECT_EQ(KernelCache(hidden).build_kernels(specs(2), "sm_90").stats.n_from_disk, 2u);
  EXPECT_TRUE(throws_error([&] { KernelCache(hidden).build_kernels(specs(3), "sm_90"); }, ErrorKind::kCompile, "/no/such/libnvrtc.so",
                           "install CUDA", "scale[kFactor=3]@sm_90"));
}

TEST_F(KernelCacheTest, SwitchedOffCompilerNamesEveryMissingKernel) {
  KernelCache(options()).build_kernels(specs(1), "sm_90");
  KernelCacheOptions no_compile = options();
  no_compile.may_compile = false;
  EXPECT_TRUE(throws_error([&] { KernelCache(no_compile).build_kernels(specs(3), "sm_90"); }, ErrorKind::kCompile, "2 of 3 kernels",
                           "scale[kFactor=2]@sm_90", "scale[kFactor=3]@sm_90"));
  EXPECT_TRUE(throws_error([&] { KernelCache(no_compile).require_cubin(spec(2), "sm_90"); }, ErrorKind::kCompile, "scale[kFactor=2]@sm_90"));
}

TEST_F(KernelCacheTest, BundleIsAskedBeforeTheDiskWithItsOwnCompiler) {
  const CompilerId compiler = {12080, "another machine's"};
  KernelCache cache(options());
  Cubin bundled = *cache.require_cubin(spec(1), "sm_90");
  bundled.label = "from the bundle";
  KernelCache with_bundle(options());
  const std::string key = cache_key(spec(1), with_bundle.sources(), "sm_90", compiler);
  with_bundle.add_bundle({compiler}, [&](const std::string& asked) { return asked == key ? std::optional(bundled) : std::nullopt; });
  const BuiltKernels built = with_bundle.build_kernels(specs(2), "sm_90");
  EXPECT_EQ(built.stats.n_from_bundle, 1u);
  EXPECT_EQ(built.stats.n_compiled, 1u);
  EXPECT_EQ(built.cubins[0]->label, "from the bundle");
}

TEST_F(KernelCacheTest, ErrorInAUsersKernelNamesItAndCanBeRepaired) {
  atomic_write(folder_ / "kernels/device/factor.cuh", "constexpr float kTwo = two;\n");
  {
    KernelCache cache(options());
    EXPECT_TRUE(throws_error([&] { cache.build_kernels(specs(2), "sm_120f"); }, ErrorKind::kCompile, "scale[kFactor=", folder_ / "kernels",
                             "factor.cuh(1)", "\"two\" is undefined", folder_ / "cache/failed/sj_scale-"));
  }
  atomic_write(folder_ / "kernels/device/factor.cuh", "constexpr float kTwo = 2;\n");
  EXPECT_EQ(KernelCache(options()).build_kernels(specs(2), "sm_120f").stats.n_compiled, 2u);
}

TEST_F(KernelCacheTest, FailedCompileCanBeTriedAgainInTheSameProcess) {
  KernelCache cache(options());
  KernelSpec bad = spec(1);
  bad.baked[0] = {"kFactor", std::string("nonsense"), "float"};
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(throws_error([&] { cache.require_cubin(bad, "sm_90"); }, ErrorKind::kCompile, "nonsense"));
  EXPECT_NE(cache.require_cubin(spec(1), "sm_90"), nullptr);
}

/// Starts this test's program again as a process of its own (forking a process that has used NVRTC can hang it) that builds
/// `n` kernels and writes its counts to `report`.
pid_t start_builder(const std::string& folder, int n, const std::string& report) {
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string count = std::to_string(n);
    ::execl("/proc/self/exe", "kernel_cache_test", "--builder", folder.c_str(), count.c_str(), report.c_str(), nullptr);
    ::_exit(127);
  }
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST_F(KernelCacheTest, ProcessesStartedTogetherCompileEachKeyOnce) {
  constexpr int kKernels = 32, kProcesses = 64;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) children.push_back(start_builder(folder_.path(), kKernels, folder_ / ("report" + std::to_string(i))));
  for (const pid_t child : children) EXPECT_EQ(wait_for(child), 0);
  int n_compiled = 0, n_sharing = 0;
  for (int i = 0; i < kProcesses; ++i) {
    int compiled = 0, from_disk = 0;
    std::ifstream(folder_ / ("report" + std::to_string(i))) >> compiled >> from_disk;
    EXPECT_EQ(compiled + from_disk, kKernels);
    n_compiled += compiled;
    n_sharing += compiled > 0 ? 1 : 0;
  }
  EXPECT_EQ(n_compiled, kKernels);
  EXPECT_GE(n_sharing, 2) << "the work was not shared";
}

TEST_F(KernelCacheTest, KilledWhileCompilingNextRunSucceeds) {
  const auto n_entries = [&] {
    size_t n = 0;
    std::error_code ec;
    for (const auto& item : std::filesystem::recursive_directory_iterator(folder_ / "cache", ec)) n += item.path().extension() == ".cubin" ? 1 : 0;
    return n;
  };
  for (size_t i = 0; i < 5; ++i) {  // each run gets a little further, and dies some way into the next compile
    const pid_t child = start_builder(folder_.path(), 12, folder_ / "killed");
    for (int waited_ms = 0; n_entries() < 2 * i + 1 && waited_ms < 20'000; ++waited_ms) ::usleep(1000);
    ::usleep(static_cast<useconds_t>(3'000 * i));
    ::kill(child, SIGKILL);
    wait_for(child);
  }
  const LogCapture capture;
  KernelCache cache(options());
  const BuiltKernels built = cache.build_kernels(specs(12), "sm_120f");
  EXPECT_EQ(built.stats.n_compiled + built.stats.n_from_disk, 12u);
  EXPECT_GT(built.stats.n_from_disk, 0u) << "the killed runs left nothing behind: the test shows nothing";
  EXPECT_EQ(capture.lines().size(), 0u);
}

}  // namespace

/// Child of the tests above.
int run_builder(const std::string& folder, int n, const std::string& report) {
  KernelCache cache({.cache_dir = folder + "/cache", .lock_dir = folder + "/locks", .kernel_dir = folder + "/kernels", .show_progress = false});
  std::vector<KernelSpec> list;
  for (int64_t i = 1; i <= n; ++i) list.push_back({.source = "scale.cu", .entry = "sj_scale", .baked = {{"kFactor", i}}, .launch = {}, .cost = {}});
  const BuiltKernels built = cache.build_kernels(list, "sm_120f", 2);
  std::ofstream(report) << built.stats.n_compiled << " " << built.stats.n_from_disk << "\n";
  return 0;
}

}  // namespace sj::kernel_cache_test

int main(int argc, char** argv) {
  if (argc == 5 && std::string_view(argv[1]) == "--builder") return sj::kernel_cache_test::run_builder(argv[2], std::stoi(argv[3]), argv[4]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
