// Flag beats variable beats file beats default; what a file may not say.
#include "runtime/options_file.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "jit/base/log.h"
#include "tests/support/gguf_writer.h"

namespace sj::options_test {
namespace {

TEST(Options, FlagBeatsVariable) {
  const Environment environment{.cache_dir = "/env/cache", .libcuda_path = "/env/libcuda.so", .libnvrtc_path = "/env/libnvrtc.so"};
  SessionOptions flags;
  flags.cache_dir = "/flag/cache";
  flags.libnvrtc_path = "/flag/libnvrtc.so";
  const SessionOptions options = resolve_options(flags, environment);
  EXPECT_EQ(options.cache_dir, "/flag/cache");
  EXPECT_EQ(options.libnvrtc_path, "/flag/libnvrtc.so");
  EXPECT_EQ(options.libcuda_path, "/env/libcuda.so");
}

TEST(Options, CacheLadderIsVariableThenXdgThenHome) {
  EXPECT_EQ(resolve_options({}, {.cache_dir = "/env", .xdg_cache_home = "/xdg", .home = "/home/u"}).cache_dir, "/env");
  EXPECT_EQ(resolve_options({}, {.xdg_cache_home = "/xdg", .home = "/home/u"}).cache_dir, "/xdg/sparkjit");
  EXPECT_EQ(resolve_options({}, {.home = "/home/u"}).cache_dir, "/home/u/.cache/sparkjit");
  EXPECT_EQ(resolve_options({}, {}).cache_dir, "");
}

TEST(Options, NoneKeepsKernelsInMemory) {
  SessionOptions flags;
  flags.cache_dir = "none";
  const Environment environment{.home = "/home/u"};
  EXPECT_EQ(kernel_cache_options(resolve_options(flags, environment), environment).cache_dir, "");
}

// The message of the usage error for a file of that text, called f.toml.
std::string usage_error(std::string_view text) {
  SessionOptions options;
  try {
    apply_config_text(text, "f.toml", options);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.message();
  }
  ADD_FAILURE() << "nothing was thrown for " << text;
  return "";
}

TEST(OptionsFile, SetsEveryKey) {
  SessionOptions options;
  apply_config_text(R"(
      ctx = 8192
      threads = 3
      prefill_tokens = 64
      device = "cuda:1"
      f32 = true
      kv_type = "q8_0"
      sync_launches = true
      progress = false
      cache_dir = "/c"
      kernel_dir = "/k"
      libcuda = "/l/cuda"
      libnvrtc = "/l/nvrtc"
      bundle = ["/b/1", "/b/2"]
      trust = "/b/farm.pub"
      no_jit = true
  )", "f.toml", options);
  EXPECT_EQ(options.max_ctx_tokens, 8192u);
  EXPECT_EQ(options.n_threads, 3u);
  EXPECT_EQ(options.prefill_tokens, 64u);
  EXPECT_EQ(options.device, "cuda:1");
  EXPECT_EQ(options.activations, ActivationMode::kF32);
  EXPECT_EQ(options.kv_type, "q8_0");
  EXPECT_TRUE(options.sync_launches);
  EXPECT_FALSE(options.show_progress);
  EXPECT_EQ(options.cache_dir, "/c");
  EXPECT_EQ(options.kernel_dir, "/k");
  EXPECT_EQ(options.libcuda_path, "/l/cuda");
  EXPECT_EQ(options.libnvrtc_path, "/l/nvrtc");
  EXPECT_EQ(options.bundle_paths, (std::vector<std::string>{"/b/1", "/b/2"}));
  EXPECT_EQ(options.trust_path, "/b/farm.pub");
  EXPECT_FALSE(options.may_compile);
}

TEST(OptionsFile, OneBundleNeedsNoList) {
  SessionOptions options;
  apply_config_text("bundle = '/b/1'", "f.toml", options);
  EXPECT_EQ(options.bundle_paths, std::vector<std::string>{"/b/1"});
  EXPECT_EQ(usage_error("bundle = 3"), "f.toml:1: bundle: expected a path as a string, or a list of them, found 3");
  EXPECT_EQ(usage_error("bundle = ['/b/1', '']"), "f.toml:1: bundle: expected a path as a string, or a list of them, found an array");
}

TEST(Options, VariableReplacesTheFilesBundlesAndFlagsReplaceBoth) {
  const Environment environment{.bundle_paths = ":/e/1::/e/2", .trust_path = "/e/pub", .home = "/h"};
  SessionOptions options;
  apply_config_text("bundle = '/f/1'\ntrust = '/f/pub'", "f.toml", options);
  apply_config("none", environment, options);
  EXPECT_EQ(options.bundle_paths, (std::vector<std::string>{"/e/1", "/e/2"}));
  EXPECT_EQ(options.trust_path, "/e/pub");
  const KernelCacheOptions cache = kernel_cache_options(resolve_options(options, environment), environment);
  EXPECT_EQ(cache.bundle_paths, options.bundle_paths);
  EXPECT_EQ(cache.trust_key_path, "/e/pub");
  EXPECT_TRUE(cache.may_compile);
  SessionOptions flags;
  flags.bundle_paths = {"/g/1"};
  flags.may_compile = false;
  EXPECT_EQ(resolve_options(flags, environment).bundle_paths, std::vector<std::string>{"/g/1"});
  EXPECT_FALSE(kernel_cache_options(flags, environment).may_compile);
}

TEST(Options, KvTypeOfTheFlagThenTheVariableThenTheFile) {
  const Environment environment{.kv_type = "f16", .home = "/h"};
  SessionOptions options;
  apply_config_text("kv_type = 'q8_0'", "f.toml", options);
  EXPECT_EQ(options.kv_type, "q8_0");
  apply_config("none", environment, options);
  EXPECT_EQ(options.kv_type, "f16");
  options.kv_type = "q8_0";   // a flag sets it after the two
  EXPECT_EQ(resolve_options(options, environment).kv_type, "q8_0");
  EXPECT_EQ(resolve_options({}, environment).kv_type, "f16");
}

TEST(OptionsFile, LeavesOutWhatItDoesNotSay) {
  SessionOptions options;
  options.n_threads = 7;
  options.cache_dir = "/before";
  apply_config_text("ctx = 1\n", "f.toml", options);
  EXPECT_EQ(options.n_threads, 7u);
  EXPECT_EQ(options.cache_dir, "/before");
}

TEST(OptionsFile, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(usage_error("ctx = 1\n\nthread = 4\n"), "f.toml:3: thread: no such key; the nearest is threads");
  EXPECT_EQ(usage_error("cachedir = \"x\"\n"), "f.toml:1: cachedir: no such key; the nearest is cache_dir");
  EXPECT_EQ(usage_error("[sync_launch]\n"), "f.toml:1: sync_launch: no such key; the nearest is sync_launches");
}

TEST(OptionsFile, WrongTypeNamesExpectedAndFound) {
  EXPECT_EQ(usage_error("threads = \"many\"\n"), "f.toml:1: threads: expected a whole number from 0 to 4096, found the string \"many\"");
  EXPECT_EQ(usage_error("threads = 2.5\n"), "f.toml:1: threads: expected a whole number from 0 to 4096, found 2.5");
  EXPECT_EQ(usage_error("f32 = 1\n"), "f.toml:1: f32: expected true or false, found 1");
  EXPECT_EQ(usage_error("kv_type = \"q4_0\"\n"), "f.toml:1: kv_type: expected one of \"f16\", \"q8_0\", found the string \"q4_0\"");
  EXPECT_EQ(usage_error("\nlibcuda = true\n"), "f.toml:2: libcuda: expected a path as a string, found true");
  EXPECT_EQ(usage_error("libcuda = \"\"\n"), "f.toml:1: libcuda: expected a path as a string, found the string \"\"");
  EXPECT_EQ(usage_error("device = [\"cpu\"]\n"),
            "f.toml:1: device: expected one of \"auto\", \"cpu\", \"cuda\", \"cuda:N\", found an array");
  EXPECT_EQ(usage_error("[ctx]\n"), "f.toml:1: ctx: expected a whole number from 0 to 16777216, found a table");
}

TEST(OptionsFile, OutOfRangeNamesTheRange) {
  EXPECT_EQ(usage_error("threads = 4097\n"), "f.toml:1: threads: expected a whole number from 0 to 4096, found 4097");
  EXPECT_EQ(usage_error("ctx = -1\n"), "f.toml:1: ctx: expected a whole number from 0 to 16777216, found -1");
  EXPECT_EQ(usage_error("prefill_tokens = 0\n"), "f.toml:1: prefill_tokens: expected a whole number from 1 to 1048576, found 0");
  for (const char* device : {"gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""})
    EXPECT_EQ(usage_error(std::string("device = \"") + device + "\"\n"),
              std::string("f.toml:1: device: expected one of \"auto\", \"cpu\", \"cuda\", \"cuda:N\", found the string \"") + device + "\"");
}

TEST(OptionsFile, TheFirstTroubleOfTheFileIsTold) {
  EXPECT_EQ(usage_error("zzz = 1\naaa = 2\n").substr(0, 13), "f.toml:1: zzz");
}

TEST(OptionsFile, BrokenTomlNamesLineAndColumn) {
  const std::string message = usage_error("ctx = 1\nthreads = = 2\n");
  EXPECT_EQ(message.substr(0, 17), "f.toml:2: column ") << message;
  EXPECT_NE(message.find("not TOML"), std::string::npos) << message;
}

TEST(OptionsFile, VariableBeatsFile) {
  const test::TempDir folder;
  const std::string path = folder.write("f.toml", "cache_dir = \"/file\"\nlibcuda = \"/file/cuda\"\n");
  SessionOptions options;
  apply_config(path, {.cache_dir = "/env"}, options);
  EXPECT_EQ(options.cache_dir, "/env");
  EXPECT_EQ(options.libcuda_path, "/file/cuda");
}

TEST(OptionsFile, DefaultPathMayBeMissingAnExplicitOneMayNot) {
  const test::TempDir folder;
  const Environment environment{.xdg_config_home = folder.path().string()};
  SessionOptions options;
  apply_config("", environment, options);
  EXPECT_EQ(options.max_ctx_tokens, 0u);
  try {
    apply_config(folder.path().string() + "/missing.toml", environment, options);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    EXPECT_NE(error.message().find("missing.toml"), std::string::npos) << error.message();
  }
  std::filesystem::create_directories(folder.path() / "sparkjit");
  folder.write("sparkjit/config.toml", "ctx = 77\n");
  apply_config("none", environment, options);
  EXPECT_EQ(options.max_ctx_tokens, 0u);
  apply_config("", environment, options);
  EXPECT_EQ(options.max_ctx_tokens, 77u);
}

TEST(OptionsFile, DefaultPathIsXdgThenHome) {
  EXPECT_EQ(default_config_path({.xdg_config_home = "/xdg", .home = "/home/u"}), "/xdg/sparkjit/config.toml");
  EXPECT_EQ(default_config_path({.home = "/home/u"}), "/home/u/.config/sparkjit/config.toml");
  EXPECT_EQ(default_config_path({}), "");
}

TEST(Options, CompilerVariablesAreDroppedAndNamed) {
  std::string log;
  set_log_sink([&](std::string_view line) { log += line; });
  ::setenv("NVRTC_APPEND_FLAGS", "-G", 1);
  drop_compiler_variables();
  EXPECT_EQ(std::getenv("NVRTC_APPEND_FLAGS"), nullptr);
  EXPECT_NE(log.find("NVRTC_APPEND_FLAGS=-G is ignored"), std::string::npos) << log;
  log.clear();
  drop_compiler_variables();
  EXPECT_EQ(log, "");
  set_log_sink(nullptr);
}

TEST(Options, DeviceNames) {
  EXPECT_EQ(cuda_ordinal("cuda"), 0);
  EXPECT_EQ(cuda_ordinal("cuda:12"), 12);
  for (const char* name : {"cuda:", "cuda:1x", "cuda:-1", "cuda: 1", "cudax", "cpu", ""}) EXPECT_EQ(cuda_ordinal(name), std::nullopt) << name;
  EXPECT_TRUE(is_device_name("auto"));
  EXPECT_TRUE(is_device_name("cpu"));
  EXPECT_FALSE(is_device_name("tpu"));
}

}  // namespace
}  // namespace sj::options_test
