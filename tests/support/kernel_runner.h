// Runs shipped device text from a test. In: a kernel spec and its argument struct with pointers from upload() and alloc().
// Out: the kernel's results on the host; or what the compiler says about the spec for every target, without a GPU.
//
//   SJ_SKIP_WITHOUT_GPU();
//   KernelRunner gpu;
//   RmsNormArgs args = {.x = gpu.upload(x), .weight = gpu.upload(w), .y = gpu.alloc<float>(n)};
//   gpu.run(rmsnorm_spec(params), args);
//   const std::vector<float> y = gpu.download(args.y, n);
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "jit/cubin.h"
#include "jit/device_info.h"
#include "jit/kernel_spec.h"

namespace sj::test {

/// True when a device is there; `why` says what is missing.
bool has_gpu(std::string* why = nullptr);

#define SJ_SKIP_WITHOUT_GPU()                                                                    \
  do {                                                                                           \
    if (std::string sj_why; !sj::test::has_gpu(&sj_why)) GTEST_SKIP() << "no GPU: " << sj_why;   \
  } while (false)

/// True when NVRTC is there. Tests that compile call SJ_SKIP_WITHOUT_NVRTC() first.
bool has_nvrtc(std::string* why = nullptr);

#define SJ_SKIP_WITHOUT_NVRTC()                                                                      \
  do {                                                                                               \
    if (std::string sj_why; !sj::test::has_nvrtc(&sj_why)) GTEST_SKIP() << "no NVRTC: " << sj_why;   \
  } while (false)

/// Device 0 with its primary context, one stream, and every buffer made through it (freed in the destructor).
class KernelRunner {
 public:
  /// Throws kCuda without a device; call SJ_SKIP_WITHOUT_GPU() first.
  KernelRunner();
  ~KernelRunner();

  const DeviceInfo& device() const;

  /// Copies host data to new device memory.
  template <class T>
  T* upload(std::span<const T> host) {
    static_assert(std::is_trivially_copyable_v<T>);
    return static_cast<T*>(upload_bytes(host.data(), host.size_bytes()));
  }
  template <class T>
  T* upload(const std::vector<T>& host) { return upload(std::span<const T>(host)); }
  /// One struct, e.g. a StepState.
  template <class T>
  T* upload_value(const T& value) { return upload(std::span<const T>(&value, 1)); }
  /// New device memory filled with the byte 0xCC (a float of -1.07e8), so that an unwritten element shows.
  template <class T>
  T* alloc(uint64_t n) { return static_cast<T*>(alloc_bytes(n * sizeof(T))); }

  /// Compiles for this device (in memory, once a spec), launches once and waits. Throws kCompile, kCuda. `args` is the
  /// family's argument struct.
  template <class Args>
  void run(const KernelSpec& spec, const Args& args, bool pdl = false) {
    static_assert(std::is_trivially_copyable_v<Args>);
    run_bytes(spec, std::as_bytes(std::span<const Args>(&args, 1)), pdl);
  }
  /// The same `n_runs` times inside one CUDA graph, after a warm-up; median microseconds a run.
  template <class Args>
  double time_us(const KernelSpec& spec, const Args& args, uint32_t n_runs = 20) {
    return time_bytes_us(spec, std::as_bytes(std::span<const Args>(&args, 1)), n_runs);
  }

  template <class T>
  std::vector<T> download(const T* device, uint64_t n) {
    std::vector<T> host(n);
    download_bytes(host.data(), device, n * sizeof(T));
    return host;
  }

 private:
  void* upload_bytes(const void* host, uint64_t n_bytes);
  void* alloc_bytes(uint64_t n_bytes);
  void download_bytes(void* host, const void* device, uint64_t n_bytes);
  void run_bytes(const KernelSpec& spec, std::span<const std::byte> args, bool pdl);
  double time_bytes_us(const KernelSpec& spec, std::span<const std::byte> args, uint32_t n_runs);
  struct State;
  std::unique_ptr<State> state_;
};

/// The targets that every kernel family must compile for.
inline const std::vector<std::string>& all_targets() {
  static const std::vector<std::string> targets = {"sm_90", "sm_120f", "sm_121f"};
  return targets;
}

struct CompiledFor {
  std::string target;
  KernelResources resources;
  uint64_t cubin_bytes = 0;
  double compile_us = 0;
};

/// Compiles `spec` with NVRTC (from the embedded texts) for each of `targets`. Throws kCompile.
std::vector<CompiledFor> compile_for(const KernelSpec& spec, const std::vector<std::string>& targets);

/// Compiles for all targets, or those given, and checks: no spills unless the spec allows them, static + dynamic shared memory <= 99 KB on
/// sm_12x and <= 227 KB on sm_90, block size <= 1024 and registers x threads <= 65536.
///   EXPECT_TRUE(compiles_everywhere(spec));
::testing::AssertionResult compiles_everywhere(const KernelSpec& spec, const std::vector<std::string>& targets = all_targets());

}  // namespace sj::test
