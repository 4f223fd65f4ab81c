// What a user reads when the driver or NVRTC is missing, too old, or not what its name says.
#include <gtest/gtest.h>

#include "jit/base/file.h"
#include "jit/driver.h"
#include "jit/nvrtc.h"
#include "tests/support/error_checks.h"
#include "tests/support/kernel_runner.h"
#include "tests/support/temp_folder.h"

namespace sj::doors_test {
namespace {

using test::throws_error;

TEST(Driver, MissingLibraryNamesItAndTheRemedy) {
  EXPECT_TRUE(throws_error([] { require_driver("/no/such/libcuda.so.1"); }, ErrorKind::kCuda, "/no/such/libcuda.so.1",
                           "install the NVIDIA driver", "--device cpu"));
  std::string why;
  EXPECT_EQ(find_driver("/no/such/libcuda.so.1", &why), nullptr);
  EXPECT_NE(why.find("/no/such/libcuda.so.1"), std::string::npos);
}

TEST(Driver, TooOldSaysHowOldAndWhatIsNeeded) {
  EXPECT_TRUE(throws_error([] { require_driver(SPARKJIT_OLD_DRIVER); }, ErrorKind::kCuda, "too old", "CUDA 12.4", "12.8", "570"));
}

TEST(Driver, ForeignLibraryIsRefused) {
  EXPECT_TRUE(throws_error([] { require_driver("libm.so.6"); }, ErrorKind::kCuda, "libm.so.6", "not an NVIDIA driver"));
}

TEST(Nvrtc, MissingLibraryNamesItAndTheRemedy) {
  EXPECT_TRUE(throws_error([] { require_nvrtc("/no/such/libnvrtc.so"); }, ErrorKind::kCompile, "/no/such/libnvrtc.so", "install CUDA"));
}

TEST(Nvrtc, DamagedLibraryIsRefused) {
  const test::TempFolder folder;
  atomic_write(folder / "libnvrtc.so.13", "not a library");
  EXPECT_TRUE(throws_error([&] { require_nvrtc(folder / "libnvrtc.so.13"); }, ErrorKind::kCompile, "libnvrtc.so.13"));
}

TEST(Nvrtc, ForeignLibraryIsRefused) {
  EXPECT_TRUE(throws_error([] { require_nvrtc("libm.so.6"); }, ErrorKind::kCompile, "libm.so.6", "has no function nvrtcVersion"));
}

TEST(Nvrtc, TellsItsIdentityWithoutACompile) {
  SJ_SKIP_WITHOUT_NVRTC();
  const Nvrtc& nvrtc = require_nvrtc();
  EXPECT_GE(nvrtc.version, 12080);
  EXPECT_GE(nvrtc.build_id.size(), 41u) << nvrtc.build_id;  // SHA-1 of the library, a slash, and that of its builtins
  EXPECT_NE(nvrtc.build_id.back(), '/') << "builtins not found: " << nvrtc.build_id;
  EXPECT_NE(std::find(nvrtc.supported_archs.begin(), nvrtc.supported_archs.end(), 120), nvrtc.supported_archs.end());
}

TEST(Driver, MemoryAndGraphsWork) {
  SJ_SKIP_WITHOUT_GPU();
  const Driver& drv = require_driver();
  const Context context(drv, 0);
  const Stream stream(drv);
  DeviceBuffer buffer(drv, 1024, "test");
  const PinnedBuffer pinned(drv, 1024, "test");
  const Graph graph = capture_graph(stream, [&] {
    fill_words(stream, buffer.ptr(), 7, 256);
    copy_to_host(stream, pinned.data(), buffer.ptr(), 1024);
  });
  EXPECT_EQ(graph.n_nodes(), 2u);
  GraphExec(graph).launch(stream);
  stream.synchronize();
  EXPECT_EQ(pinned.as<uint32_t>()[255], 7u);
  EXPECT_TRUE(throws_error([&] { DeviceBuffer(drv, uint64_t{1} << 60, "the impossible"); }, ErrorKind::kCuda, "out of GPU memory",
                           "the impossible", "needed 1152921504606846976 bytes", "free"));
  EXPECT_TRUE(throws_error([&] { Context(drv, 99); }, ErrorKind::kCuda, "no CUDA device 99"));
  EXPECT_TRUE(throws_error([&] { capture_graph(stream, [] { throw Error(ErrorKind::kInternal, "inside"); }); }, ErrorKind::kInternal, "inside"));
  stream.synchronize();  // the stream left capture mode
}

}  // namespace
}  // namespace sj::doors_test
