// The kernel cache with bundles and without a compiler: which cubin serves, which rule lets it, what a miss says.
#include <gtest/gtest.h>

#include "cache/kernel_cache.h"
#include "jit/base/file.h"
#include "jit/device_info.h"
#include "tests/cache/bundle_bytes.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::bundle_lookup_test {
namespace {

using test::fake_cubin;
using test::LogCapture;
using test::TempFolder;
using test::throws_error;

const CompilerId kCompiler{13000, "abc/def"};

KernelSpec add_spec(uint32_t n) { return {.source = "add.cu", .entry = "sj_add", .baked = {{"kPerToken", n}}, .launch = {.grid = {1}, .block = {32}}}; }

class BundleLookup : public testing::Test {
 protected:
  /// A bundle with add_spec(n) for each n, for cards of `arch`.
  std::string bundle(const std::string& name, std::initializer_list<uint32_t> ns, uint32_t arch = 120, const SigningKey* key = nullptr,
                     size_t n_bytes = 200) {
    BundleContent content;
    content.manifest = test::small_manifest();
    content.manifest.compilers = {kCompiler};
    for (const uint32_t n : ns) {
      Cubin cubin = fake_cubin("sj_add", n_bytes, arch);
      cubin.target = "sm_" + std::to_string(arch) + (arch >= 100 ? "f" : "");
      cubin.label = kernel_label(add_spec(n));
      content.add(cache_key(add_spec(n), SourceSet::embedded(), cubin.target, kCompiler), cubin, name);
    }
    atomic_write(folder_ / name, content.encode(key), 0644);
    return folder_ / name;
  }
  KernelCacheOptions options(std::vector<std::string> bundles) const {
    KernelCacheOptions o{.cache_dir = folder_ / "cache", .libnvrtc_path = "/no/such/libnvrtc.so", .bundle_paths = std::move(bundles)};
    o.show_progress = false;
    return o;
  }
  TempFolder folder_;
};

TEST_F(BundleLookup, NeedsNoCompilerToFormAKey) {
  KernelCache cache(options({bundle("a.skb", {1, 2})}));
  const BuiltKernels built = cache.build_kernels(std::vector{add_spec(1), add_spec(2), add_spec(1)}, "sm_120f");
  EXPECT_EQ(built.stats.n_from_bundle, 2u);
  EXPECT_EQ(built.stats.n_compiled, 0u);
  EXPECT_EQ(built.cubins[0], built.cubins[2]);
  EXPECT_EQ(built.cubins[1]->label, kernel_label(add_spec(2)));
  EXPECT_EQ(cache.build_kernels(std::vector{add_spec(1)}, "sm_120f").stats.n_from_memory, 1u);
}

TEST_F(BundleLookup, EarlierBundleWins) {
  const std::string a = bundle("a.skb", {1}, 120, nullptr, 300), b = bundle("b.skb", {1, 2}, 120, nullptr, 400);
  KernelCache cache(options({a, b}));
  EXPECT_EQ(cache.require_cubin(add_spec(1), "sm_120f")->bytes.size(), 300u);
  EXPECT_EQ(cache.require_cubin(add_spec(2), "sm_120f")->bytes.size(), 400u);
}

TEST_F(BundleLookup, MissWithoutACompilerSaysWhatIsMissing) {
  KernelCache cache(options({bundle("a.skb", {1})}));
  EXPECT_TRUE(throws_error([&] { cache.require_cubin(add_spec(7), "sm_120f"); }, ErrorKind::kCompile, "add[kPerToken=7]@sm_120f",
                           "NVRTC can't be opened"));
}

TEST_F(BundleLookup, NoJitNamesEveryMissingKernelAndTheBundles) {
  KernelCacheOptions o = options({bundle("a.skb", {1})});
  o.may_compile = false;
  KernelCache cache(o);
  EXPECT_EQ(cache.build_kernels(std::vector{add_spec(1)}, "sm_120f").stats.n_from_bundle, 1u);
  EXPECT_TRUE(throws_error([&] { cache.build_kernels(std::vector{add_spec(1), add_spec(7), add_spec(8)}, "sm_120f"); }, ErrorKind::kCompile,
                           "2 of 3 kernels", "add[kPerToken=7]@sm_120f", "add[kPerToken=8]@sm_120f", "switched off", "a.skb",
                           "NVIDIA H200 (sm_90, 132 SMs)"));
  EXPECT_TRUE(throws_error([&] { cache.require_cubin(add_spec(7), "sm_120f"); }, ErrorKind::kCompile, "add[kPerToken=7]@sm_120f", "a.skb"));
}

TEST_F(BundleLookup, OtherKernelTextsMiss) {
  std::filesystem::create_directories(folder_ / "texts/device");
  atomic_write(folder_ / "texts/add.cu", "// another text\nextern \"C\" __global__ void sj_add() {}\n");
  KernelCacheOptions o = options({bundle("a.skb", {1})});
  o.kernel_dir = folder_ / "texts";
  KernelCache cache(o);
  EXPECT_TRUE(throws_error([&] { cache.require_cubin(add_spec(1), "sm_120f"); }, ErrorKind::kCompile, "NVRTC can't be opened"));
}

TEST_F(BundleLookup, CubinOfTheFamilyServesAndIsLogged) {
  const LogCapture capture;
  KernelCache cache(options({bundle("a.skb", {1, 2}, 120), bundle("b.skb", {2}, 121)}));
  const BuiltKernels built = cache.build_kernels(std::vector{add_spec(1), add_spec(2)}, "sm_121f");
  EXPECT_EQ(built.stats.n_from_family, 1u);
  EXPECT_EQ(built.stats.n_from_bundle, 1u);
  EXPECT_EQ(built.cubins[0]->target, "sm_120f");
  EXPECT_EQ(built.cubins[1]->target, "sm_121f") << "the exact one comes first";
  EXPECT_EQ(capture.n_with("1 cubins for sm_120f serve for sm_121f: of the same family"), 1u);
}

TEST_F(BundleLookup, CubinThatCanNotRunHereNeverServes) {
  KernelCache cache(options({bundle("a.skb", {1}, 121), bundle("b.skb", {1}, 90)}));
  for (const char* target : {"sm_120f", "sm_100f", "sm_110f", "sm_89", "sm_120", "sm_121a"})
    EXPECT_TRUE(throws_error([&] { cache.require_cubin(add_spec(1), target); }, ErrorKind::kCompile, target)) << target;
}

TEST(CompatibleTargets, AreOfTheSameMajorAndNoLaterMinor) {
  EXPECT_EQ(compatible_targets("sm_121f"), std::vector<std::string>{"sm_120f"});
  EXPECT_EQ(compatible_targets("sm_89"), (std::vector<std::string>{"sm_86", "sm_80"}));
  for (const char* target : {"sm_120f", "sm_120", "sm_121", "sm_90", "sm_100f", "sm_110f", "sm_87", "sm_80", "", "junk"})
    EXPECT_TRUE(compatible_targets(target).empty()) << target;
}

TEST_F(BundleLookup, CubinThatTheDriverRefusedIsNotTakenAgain) {
  KernelCache cache(options({bundle("a.skb", {1})}));
  cache.require_cubin(add_spec(1), "sm_120f");
  cache.drop(add_spec(1), "sm_120f", "CUDA_ERROR_INVALID_IMAGE");
  EXPECT_TRUE(throws_error([&] { cache.require_cubin(add_spec(1), "sm_120f"); }, ErrorKind::kCompile, "NVRTC can't be opened"));
}

TEST_F(BundleLookup, TrustIsAskedOfEveryBundle) {
  const SigningKey farm = SigningKey::generate();
  atomic_write(folder_ / "farm.pub", public_key_text(farm.public_key()));
  const std::string by_farm = bundle("a.skb", {1}, 120, &farm), by_nobody = bundle("b.skb", {2});
  KernelCacheOptions o = options({by_farm});
  o.trust_key_path = folder_ / "farm.pub";
  EXPECT_EQ(KernelCache(o).build_kernels(std::vector{add_spec(1)}, "sm_120f").stats.n_from_bundle, 1u);
  o.bundle_paths.push_back(by_nobody);
  EXPECT_TRUE(throws_error([&] { KernelCache cache(o); }, ErrorKind::kIo, "b.skb is refused", "not signed", "farm.pub"));
}

TEST_F(BundleLookup, AlteredEntryOfATrustedBundleStopsTheLoad) {
  const SigningKey farm = SigningKey::generate();
  atomic_write(folder_ / "farm.pub", public_key_text(farm.public_key()));
  const std::string path = bundle("a.skb", {1}, 120, &farm);
  std::string bytes = read_file(path);
  bytes.back() ^= 1;
  atomic_write(path, bytes);
  KernelCacheOptions o = options({path});
  o.trust_key_path = folder_ / "farm.pub";
  KernelCache cache(o);
  EXPECT_TRUE(throws_error([&] { cache.build_kernels(std::vector{add_spec(1)}, "sm_120f"); }, ErrorKind::kIo, "a.skb is refused", "altered"));
  o.may_compile = false;   // nor is it reported as merely missing
  KernelCache strict(o);
  EXPECT_TRUE(throws_error([&] { strict.build_kernels(std::vector{add_spec(1)}, "sm_120f"); }, ErrorKind::kIo, "a.skb is refused", "altered"));
}

TEST_F(BundleLookup, MissingBundleIsAnError) {
  EXPECT_TRUE(throws_error([&] { KernelCache cache(options({folder_ / "none.skb"})); }, ErrorKind::kIo, "none.skb"));
}

}  // namespace
}  // namespace sj::bundle_lookup_test
