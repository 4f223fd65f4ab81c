// Flag beats variable beats default.
#include "runtime/options.h"

#include <gtest/gtest.h>

namespace sj {
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

}  // namespace
}  // namespace sj
