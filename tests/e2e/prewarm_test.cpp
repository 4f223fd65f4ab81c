// Kernels compiled ahead: made without a card, used without a compiler. The card is the software GPU.
#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/e2e/binary.h"
#include "tests/e2e/failure.h"
#include "tests/e2e/tiny_model.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::prewarm_test {
namespace {

constexpr int kUsage = 2, kIo = 3, kUnsupported = 5, kCompile = 6;
const std::string kLibcuda = SPARKJIT_SOFTGPU_LIB "/libcuda.so.1";
const std::string kLibnvrtc = SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13";
const std::string kNoNvrtc = "/no/such/libnvrtc.so";
using Args = std::vector<std::string>;
using Environment = std::vector<std::pair<std::string, std::string>>;

Args operator+(Args a, const Args& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// One bundle for the tiny model on the software GPU's card, compiled once for all tests.
class Prewarm : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempDir;
    model_ = folder_->write("tiny.gguf", tiny_model_bytes({.ctx_tokens = 1 << 20}));
    bundle_ = path("tiny.skb");
    const Outcome outcome = run_sparkjit(prewarm("rtx5090", bundle_));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }
  static Args prewarm(const std::string& device, const std::string& out, const std::string& libnvrtc = kLibnvrtc) {
    return {"prewarm", "-m", model_, "--device", device, "-o", out, "--libnvrtc", libnvrtc, "--cache-dir", path("cache")};
  }
  /// `verb` where there is neither a compiler nor a cached kernel.
  static Outcome use(const Args& verb, const Args& more, const Environment& environment = {}) {
    const TempDir empty;
    const Args where = {"-m", model_, "--device", "cuda", "--libcuda", kLibcuda, "--libnvrtc", kNoNvrtc, "--cache-dir", empty.path().string()};
    return run_sparkjit(verb + where + more, {.environment = environment});
  }
  static inline const Args kRun = {"run", "-p", "abc", "-n", "4", "--temp", "0", "-c", "64"};

  static inline TempDir* folder_ = nullptr;
  static inline std::string model_, bundle_;
};

TEST_F(Prewarm, RunNeedsNeitherCompilerNorCache) {
  const Outcome jit = run_sparkjit(kRun + Args{"-m", model_, "--device", "cuda", "--libcuda", kLibcuda, "--libnvrtc", kLibnvrtc, "--cache-dir", path("cache")});
  ASSERT_EQ(jit.exit_code, 0) << jit.err;
  const Outcome outcome = use(kRun, {"--bundle", bundle_, "--no-jit", "--timings"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, jit.out);
  EXPECT_NE(outcome.err.find(": 0 compiled, 0 from the cache, "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("0 compiled in "), std::string::npos) << outcome.err;
}

TEST_F(Prewarm, BenchAndScoreFindEveryKernelAtAnyContext) {
  const Outcome bench = use({"bench", "-p", "5", "-d", "2", "-n", "2", "-r", "1", "--warmup", "0"}, {"--bundle", bundle_, "--no-jit"});
  EXPECT_EQ(bench.exit_code, 0) << bench.err;
  const std::string tokens = folder_->write("tokens.i32", le<int32_t>(5) + le<int32_t>(6) + le<int32_t>(7));
  const Outcome score = use({"score", "--tokens", tokens}, {"--bundle", bundle_, "--no-jit"});
  EXPECT_EQ(score.exit_code, 0) << score.err;
  for (const char* context : {"1", "300", "6000"}) {
    const Outcome outcome = use({"run", "-p", "a", "-n", "1", "--temp", "0", "-c", context}, {"--bundle", bundle_, "--no-jit"});
    // One token of context is too short for a prompt; its kernels are there all the same.
    EXPECT_EQ(outcome.exit_code, context == std::string("1") ? kUsage : 0) << context << outcome.err;
    EXPECT_NE(outcome.err.find(" 0 compiled"), std::string::npos) << context << outcome.err;
  }
}

TEST_F(Prewarm, BundlesComeFromVariableAndFileToo) {
  EXPECT_EQ(use(kRun, {}, {{"SPARKJIT_BUNDLE", bundle_}}).exit_code, 0);
  const std::string config = folder_->write("config.toml", "bundle = '" + bundle_ + "'\nno_jit = true\n");
  EXPECT_EQ(use(kRun, {"--config", config}).exit_code, 0);
  EXPECT_TRUE(fails(use(kRun, {"--bundle", path("none.skb")}, {{"SPARKJIT_BUNDLE", bundle_}}), kIo, {"none.skb"})) << "the flag wins";
}

TEST_F(Prewarm, NoJitNamesWhatIsMissing) {
  const std::string small = path("small.skb");
  ASSERT_EQ(run_sparkjit(prewarm("rtx5090", small) + Args{"--prefill-tokens", "1"}).exit_code, 0);
  EXPECT_TRUE(fails(use(kRun, {"--bundle", small, "--no-jit"}), kCompile, {"kernels are neither bundled nor cached", "kTokens=64", "@sm_120f",
                                                                             small, "NVIDIA GeForce RTX 5090 (sm_120f, 170 SMs)"}));
  EXPECT_TRUE(fails(use(kRun, {"--bundle", small}), kCompile, {"NVRTC can't be opened", "kTokens=64"}));
  EXPECT_EQ(use(kRun, {"--bundle", small, "--bundle", bundle_, "--no-jit"}).exit_code, 0);
}

TEST_F(Prewarm, BundlesAreForOneKvType) {
  const std::string model = folder_->write("wide.gguf", tiny_model_bytes({.n_head = 1})), bundle = path("q8.skb");
  const auto with = [&](const char* kv_type) {
    const TempDir empty;
    return run_sparkjit(kRun + Args{"-m", model, "--device", "cuda", "--libcuda", kLibcuda, "--libnvrtc", kNoNvrtc, "--cache-dir",
                                    empty.path().string(), "--bundle", bundle, "--no-jit", "--kv-type", kv_type});
  };
  const Outcome made = run_sparkjit({"prewarm", "-m", model, "--device", "rtx5090", "-o", bundle, "--libnvrtc", kLibnvrtc, "--cache-dir", path("cache"),
                                     "--kv-type", "q8_0", "--f32"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const Outcome same = with("q8_0");
  EXPECT_EQ(same.exit_code, 0) << same.err;
  EXPECT_TRUE(fails(with("f16"), kCompile, {"kernels are neither bundled nor cached", "kIsKvQ8=0", bundle, "170 SMs), KV cache f32, q8_0"}));
  const Outcome list = run_sparkjit({"bundle", "ls", bundle});
  EXPECT_NE(list.out.find("batches of 512, KV cache q8_0\n"), std::string::npos) << list.out;
  EXPECT_NE(list.out.find("batches of 512, KV cache f32, float32\n"), std::string::npos) << list.out;
}

// GB10 and RTX 5070 have 48 SMs both, so their kernels differ by target alone.
TEST_F(Prewarm, CubinsOfTheFamilyServeAndSaySo) {
  const std::string bundle = path("rtx5070.skb");
  ASSERT_EQ(run_sparkjit(prewarm("rtx5070", bundle)).exit_code, 0);
  const Environment gb10 = {{"SOFTCUDA_PROFILE", SPARKJIT_SOURCE_DIR "/kernel_src/profiles/gb10.toml"}};
  const Outcome outcome = use(kRun, {"--bundle", bundle, "--no-jit"}, gb10);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find(" cubins for sm_120f serve for sm_121f: of the same family"), std::string::npos) << outcome.err;
  const Environment h200 = {{"SOFTCUDA_PROFILE", SPARKJIT_SOURCE_DIR "/kernel_src/profiles/h200.toml"}};
  EXPECT_TRUE(fails(use(kRun, {"--bundle", bundle, "--no-jit"}, h200), kCompile, {"@sm_90"}));
}

TEST_F(Prewarm, SignedBundleIsAskedForAndChecked) {
  const std::string name = path("farm"), other = path("other"), bundle = path("signed.skb");
  ASSERT_EQ(run_sparkjit({"bundle", "keygen", name, other}).exit_code, 0);
  EXPECT_TRUE(fails(run_sparkjit({"bundle", "keygen", name}), kIo, {"farm.key exists"}));
  ASSERT_EQ(run_sparkjit(prewarm("rtx5090", bundle) + Args{"--sign", name + ".key"}).exit_code, 0);
  EXPECT_EQ(use(kRun, {"--bundle", bundle, "--trust", name + ".pub"}).exit_code, 0);
  EXPECT_EQ(use(kRun, {"--bundle", bundle}, {{"SPARKJIT_TRUST", name + ".pub"}}).exit_code, 0);
  EXPECT_TRUE(fails(use(kRun, {"--bundle", bundle, "--trust", other + ".pub"}), kIo, {"signed.skb is refused", "not in " + other + ".pub"}));
  EXPECT_TRUE(fails(use(kRun, {"--bundle", bundle_, "--trust", name + ".pub"}), kIo, {"tiny.skb is refused: it is not signed"}));
  EXPECT_TRUE(fails(use(kRun, {"--bundle", bundle, "--trust", name + ".key"}), kUsage, {"found a secret key"}));
  std::string altered = read(bundle);
  altered[altered.size() - 100] ^= 1;   // code of the last kernel
  const std::string bad = folder_->write("altered.skb", altered);
  const Outcome verify = run_sparkjit({"bundle", "verify", bad, bundle, "--trust", name + ".pub"});
  EXPECT_EQ(verify.exit_code, kIo);
  EXPECT_NE(verify.out.find("altered.skb: 1 problems"), std::string::npos) << verify.out;
  EXPECT_NE(verify.out.find("signed.skb: good"), std::string::npos) << verify.out;
}

TEST_F(Prewarm, BundlesAreListedMergedAndUnpacked) {
  const std::string merged = path("merged.skb"), small = path("h200.skb"), cubins = path("cubins");
  ASSERT_EQ(run_sparkjit(prewarm("h200", small) + Args{"--prefill-tokens", "1"}).exit_code, 0);
  ASSERT_EQ(run_sparkjit({"bundle", "merge", bundle_, small, "-o", merged}).exit_code, 0);
  const Outcome list = run_sparkjit({"bundle", "ls", "--json", merged, bundle_, small});
  ASSERT_EQ(list.exit_code, 0) << list.err;
  const auto all = nlohmann::json::parse(list.out);
  EXPECT_EQ(all[0]["kernels"].size(), all[1]["kernels"].size() + all[2]["kernels"].size());
  EXPECT_EQ(all[0]["manifest"]["devices"].size(), 2u);
  EXPECT_EQ(all[0]["manifest"]["models"][0]["model"], "tiny");
  const Outcome text = run_sparkjit({"bundle", "ls", merged});
  for (const char* part : {"NVIDIA H200 (sm_90, 132 SMs", "NVIDIA GeForce RTX 5090 (sm_120f, 170 SMs", "signed   by nobody", "embed["})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << text.out;
  EXPECT_EQ(use(kRun, {"--bundle", merged, "--no-jit"}).exit_code, 0);
  ASSERT_EQ(run_sparkjit({"bundle", "extract", merged, "-o", cubins}).exit_code, 0);
  EXPECT_EQ(static_cast<size_t>(std::distance(std::filesystem::directory_iterator(cubins), {})), all[0]["kernels"].size());
  EXPECT_TRUE(fails(run_sparkjit({"bundle", "merge", bundle_}), kUsage, {"--out"}));
}

TEST_F(Prewarm, ProfileWrittenFromTheCardGivesTheSameBundle) {
  const std::string profile = path("card.toml"), bundle = path("card.skb");
  const Outcome doctor = run_sparkjit({"doctor", "--write-profile", profile, "--libcuda", kLibcuda});
  ASSERT_EQ(doctor.exit_code, 0) << doctor.err;
  ASSERT_EQ(run_sparkjit(prewarm(profile, bundle)).exit_code, 0);
  EXPECT_EQ(read(bundle), read(bundle_));
  EXPECT_EQ(run_sparkjit({"doctor", "--write-profile", "-", "--libcuda", kLibcuda}).out, read(profile));
}

TEST_F(Prewarm, WrongInputIsRefused) {
  const std::string out = path("x.skb");
  EXPECT_TRUE(fails(run_sparkjit(prewarm("rtx5090,rtx9090", out)), kUsage, {"unknown device rtx9090", "rtx5090", "thor"}));
  EXPECT_TRUE(fails(run_sparkjit({"prewarm", "--device", "gb10", "-o", out}), kUsage, {"no model", "--shape"}));
  EXPECT_TRUE(fails(run_sparkjit({"prewarm", "--shape", "no-such", "--device", "gb10", "-o", out}), kUsage, {"no-such", "qwen3-30b-a3b"}));
  std::string profile = read(SPARKJIT_SOURCE_DIR "/kernel_src/profiles/gb10.toml");
  profile.replace(profile.find("n_sms = 48"), 10, "n_sms = 0 ");
  EXPECT_TRUE(fails(run_sparkjit(prewarm(folder_->write("bad.toml", profile), out)), kUnsupported, {"bad.toml", "n_sms is 0, expected 1 to"}));
  EXPECT_TRUE(fails(run_sparkjit(prewarm("rtx5090", "/proc/no/x.skb")), kIo, {"/proc/no/x.skb"}));
  EXPECT_TRUE(fails(run_sparkjit(prewarm("rtx5090", out, kNoNvrtc)), kCompile, {"NVRTC can't be opened", kNoNvrtc}));
  EXPECT_TRUE(fails(run_sparkjit(prewarm("rtx5090", out) + Args{"--sign", path("none.key")}), kIo, {"none.key"}));
  EXPECT_FALSE(std::filesystem::exists(out));
  std::string newer = read(bundle_);
  newer[8] = 2;
  EXPECT_TRUE(fails(use(kRun, {"--bundle", folder_->write("newer.skb", newer)}), kUnsupported, {"newer.skb has format 2", "reads 1"}));
  EXPECT_TRUE(fails(use(kRun, {"--bundle", folder_->write("short.skb", read(bundle_).substr(0, 5000))}), kIo, {"short.skb is damaged"}));
  EXPECT_TRUE(fails(use(kRun, {"--bundle", model_}), kIo, {"is no bundle"}));
}

// With the real compiler, where there is one: what is in the file, and that it is the same again.
TEST_F(Prewarm, TheSameInputsGiveTheSameBytesAndEachCubinIsOfItsCard) {
  const auto make = [&](const std::string& out, const char* threads) {
    return run_sparkjit({"prewarm", "-m", model_, "--device", "h200,rtx5090,gb10,thor", "-o", out, "--cache-dir", "none", "--prefill-tokens", "1", "-t", threads});
  };
  const std::string first = path("first.skb"), second = path("second.skb"), cubins = path("real-cubins");
  const Outcome outcome = make(first, "2");
  if (outcome.exit_code == kCompile && outcome.err.find("NVRTC can't be opened") != std::string::npos) GTEST_SKIP() << outcome.err;
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  ASSERT_EQ(make(second, "1").exit_code, 0);
  EXPECT_EQ(read(first), read(second));
  ASSERT_EQ(run_sparkjit({"bundle", "extract", first, "-o", cubins}).exit_code, 0);
  std::map<uint32_t, uint32_t> n_of_arch;
  for (const auto& file : std::filesystem::directory_iterator(cubins)) {
    const std::string image = read(file.path());
    Elf64_Ehdr header;
    ASSERT_GT(image.size(), sizeof header);
    std::memcpy(&header, image.data(), sizeof header);
    ASSERT_EQ(std::memcmp(header.e_ident, ELFMAG, SELFMAG), 0);
    const uint32_t arch = header.e_flags >> 8 & 0xff;
    EXPECT_NE(file.path().string().find(".sm_" + std::to_string(arch) + ".cubin"), std::string::npos) << file.path();
    ++n_of_arch[arch];
  }
  ASSERT_EQ(n_of_arch.size(), 4u);
  for (const uint32_t arch : {90, 110, 120, 121}) EXPECT_GT(n_of_arch[arch], 5u) << arch;
}

}  // namespace
}  // namespace sj::test::prewarm_test
