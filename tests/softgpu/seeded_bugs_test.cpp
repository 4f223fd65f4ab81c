// Proof that the checked doubles see what they promise to see: shipped kernels run clean, and the same text with one bug put
// in, or the same launch with one mistake, ends the device with a message that names the bug. A fault is sticky, so every run
// is a process of its own.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <numeric>

#include "jit/compiler.h"
#include "jit/device_info.h"
#include "jit/launch.h"
#include "kernel_src/add_spec.h"
#include "kernel_src/argmax_spec.h"
#include "kernel_src/args/add.h"
#include "kernel_src/args/argmax.h"
#include "kernel_src/args/rmsnorm.h"
#include "kernel_src/args/step_state.h"
#include "kernel_src/rmsnorm_spec.h"

namespace sj::seeded_bugs_test {
namespace {

constexpr int kClean = 0, kFaulted = 7;
constexpr uint32_t kDim = 4096;

/// The shipped texts with one place changed.
struct Change {
  std::string file, from, to;
};

SourceSet texts_with(const std::vector<Change>& changes) {
  SourceSet::Files files;
  const SourceSet& shipped = SourceSet::embedded();
  for (const char* name : {"add.cu", "rmsnorm.cu", "argmax.cu"}) {
    const SourceClosure closure = shipped.require_closure(name);
    files[closure.entry.name] = closure.entry.text;
    for (const NamedText& header : closure.headers) files[header.name] = header.text;
  }
  for (const Change& change : changes) {
    std::string& text = files.at(change.file);
    const size_t at = text.find(change.from);
    if (at == std::string::npos) {
      std::fprintf(stderr, "%s has no \"%s\"\n", change.file.c_str(), change.from.c_str());
      std::exit(1);
    }
    text.replace(at, change.from.size(), change.to);
  }
  return SourceSet(std::move(files));
}

/// The checked software GPU with what a launch needs.
class Bench {
 public:
  explicit Bench(const std::vector<Change>& changes, const std::string& lib = SPARKJIT_SOFTGPU_CHECKED_LIB)
      : drv_(require_driver(lib + "/libcuda.so.1")), nvrtc_(require_nvrtc(lib + "/libnvrtc.so.13")), texts_(texts_with(changes)) {}

  template <class T>
  T* memory(uint64_t n, bool is_written = true) {
    buffers_.emplace_back(drv_, n * sizeof(T), "test");
    if (is_written) fill_bytes(stream_, buffers_.back().ptr(), 0, n * sizeof(T));
    return buffers_.back().as<T>();
  }
  template <class Args>
  void run(const KernelSpec& spec, const Args& args, bool pdl = false) {
    const Cubin cubin = compile(nvrtc_, {.spec = spec, .sources = texts_, .target = device_.target()});
    kernels_.emplace_back(drv_, cubin, spec.launch.dynamic_smem_bytes);
    launch(kernels_.back(), spec.launch, std::as_bytes(std::span(&args, 1)), stream_, {.pdl = pdl});
  }
  void write(float* to, const std::vector<float>& from) {
    copy_to_device(drv_, reinterpret_cast<CUdeviceptr>(to), from.data(), from.size() * sizeof(float));
  }
  void finish() { stream_.synchronize(); }

 private:
  const Driver& drv_;
  const Nvrtc& nvrtc_;
  Context context_{drv_, 0};
  DeviceInfo device_ = device_info(drv_, 0);
  Stream stream_{drv_};
  SourceSet texts_;
  std::vector<DeviceBuffer> buffers_;
  std::vector<LoadedKernel> kernels_;
};

/// Ends the process: kClean, or an Error's exit code with its message.
[[noreturn]] void run_and_exit(const std::function<void(Bench&)>& body, const std::vector<Change>& changes,
                               const std::string& lib = SPARKJIT_SOFTGPU_CHECKED_LIB) {
  try {
    Bench bench(changes, lib);
    body(bench);
    bench.finish();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(error.exit_code());
  }
  std::_Exit(kClean);
}

void normalise(Bench& bench) {
  const RmsNormArgs args = {.x = bench.memory<float>(kDim), .weight = bench.memory<float>(kDim), .residual = nullptr,
                            .y = bench.memory<float>(kDim, false), .state = bench.memory<StepState>(1)};
  bench.run(rmsnorm_spec({.dim = kDim, .eps = 1e-6f}), args);
}

/// Two launches; the second reads what the first writes and may start early.
void add_twice(Bench& bench) {
  AddArgs args = {.a = bench.memory<float>(64), .b = bench.memory<float>(64), .y = bench.memory<float>(64, false),
                  .state = bench.memory<StepState>(1)};
  bench.run(add_spec({.n_per_token = 64}), args);
  args.a = args.y;
  args.y = bench.memory<float>(64, false);  // no copy or fill between the launches: they would order them
  bench.run(add_spec({.n_per_token = 64}), args, true);
}

void pick_largest(Bench& bench, bool is_scratch_zeroed) {
  constexpr uint32_t kVocab = 40000;
  const ArgmaxArgs args = {.logits = bench.memory<float>(kVocab), .sample = {
                               .scratch = bench.memory<ArgmaxScratch>(1, is_scratch_zeroed), .state = bench.memory<StepState>(1),
                               .ring = bench.memory<uint64_t>(8), .nan_step = bench.memory<uint32_t>(1)}};
  bench.run(argmax_spec({.n_vocab = kVocab, .n_ring_slots = 8}), args);
}

void pick_largest_prepared(Bench& bench) { pick_largest(bench, true); }
void pick_largest_unprepared(Bench& bench) { pick_largest(bench, false); }

void normalise_swapped(Bench& bench) {
  const RmsNormArgs args = {.x = bench.memory<float>(kDim, false), .weight = bench.memory<float>(kDim), .residual = nullptr,
                            .y = bench.memory<float>(kDim), .state = bench.memory<StepState>(1)};
  bench.run(rmsnorm_spec({.dim = kDim, .eps = 1e-6f}), args);
}

void add_from(Bench& bench, const float* a, uint32_t n) {
  const AddArgs args = {.a = a, .b = bench.memory<float>(n), .y = bench.memory<float>(n, false), .state = bench.memory<StepState>(1)};
  bench.run(add_spec({.n_per_token = n}), args);
}
void add_short(Bench& bench) { add_from(bench, bench.memory<float>(63), 64); }
void add_misaligned(Bench& bench) { add_from(bench, bench.memory<float>(68) + 1, 64); }
void add_many(Bench& bench) {
  std::vector<float> ramp(8192);
  std::iota(ramp.begin(), ramp.end(), 0.0f);
  float* const a = bench.memory<float>(ramp.size());
  bench.write(a, ramp);
  add_from(bench, a, static_cast<uint32_t>(ramp.size()));
}
void add_from_host(Bench& bench) {
  static float on_host[64];
  add_from(bench, on_host, 64);
}

class SeededBugsTest : public testing::Test {
 protected:
  SeededBugsTest() { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};

#define EXPECT_CLEAN(body, ...) EXPECT_EXIT(run_and_exit(body, {__VA_ARGS__}), testing::ExitedWithCode(kClean), "")
#define EXPECT_FAULT(message, body, ...) EXPECT_EXIT(run_and_exit(body, {__VA_ARGS__}), testing::ExitedWithCode(kFaulted), message)

TEST_F(SeededBugsTest, SharedIndexOneTooFarIsOutOfBounds) {
  EXPECT_CLEAN(normalise);
  EXPECT_FAULT("out of bounds .*of a shared variable of 128 bytes", normalise,
               {"device/reduce.cuh", "scratch[threadIdx.x / kWarpLanes] = v", "scratch[threadIdx.x / kWarpLanes + 1] = v"});
}

TEST_F(SeededBugsTest, MissingBlockBarrierIsARace) {
  EXPECT_CLEAN(normalise);
  EXPECT_FAULT("shared memory race|shared memory that nothing has written", normalise,
               {"device/reduce.cuh", "__syncthreads();  // every warp's sum is in scratch", ""});
}

TEST_F(SeededBugsTest, BarrierInDivergentFlowIsSeen) {
  EXPECT_FAULT("the block can not go on: .*__syncthreads at .*reduce.cuh", normalise,
               {"device/reduce.cuh", "__syncthreads();  // every warp's sum is in scratch",
                "__syncthreads(); if (threadIdx.x != 5) __syncthreads();"});
}

TEST_F(SeededBugsTest, MissingDependencyWaitIsSeen) {
  EXPECT_CLEAN(add_twice);
  EXPECT_FAULT("no griddepcontrol.wait|before griddepcontrol.wait", add_twice, {"add.cu", "pdl_wait();", ""});
}

TEST_F(SeededBugsTest, ShuffleInDivergentFlowIsSeen) {
  EXPECT_CLEAN(normalise);
  EXPECT_FAULT("__shfl_xor_sync", normalise,
               {"device/reduce.cuh", "  v = warp_sum(v);\n", "  if (threadIdx.x % kWarpLanes < 16) v = warp_sum(v);\n"});
}

TEST_F(SeededBugsTest, WrongArgumentOrderReadsWhatNothingWrote) {
  EXPECT_CLEAN(normalise);
  EXPECT_FAULT("reads memory that nothing has written", normalise_swapped);
}

TEST_F(SeededBugsTest, UninitialisedCounterIsSeen) {
  EXPECT_CLEAN(pick_largest_prepared);
  EXPECT_FAULT("atomic of .* reads memory that nothing has written", pick_largest_unprepared);
}

TEST_F(SeededBugsTest, BufferOneElementShortIsOutOfBounds) {
  EXPECT_FAULT("out of bounds .*past the end of allocation|out of bounds .*of allocation", add_short);
}

TEST_F(SeededBugsTest, MisalignedVectorLoadIsSeen) { EXPECT_FAULT("misaligned", add_misaligned); }

TEST_F(SeededBugsTest, BlocksThatShareAnElementRace) {
  EXPECT_CLEAN(add_many);
  EXPECT_FAULT("block race", add_many, {"add.cu", "reinterpret_cast<float4*>(args.y)[i]", "reinterpret_cast<float4*>(args.y)[i % 7]"});
}

TEST_F(SeededBugsTest, HalvesOfAWordMayBelongToTwoBlocks) {
  const std::string place = "reinterpret_cast<float4*>(args.y)[i]", half = "if (threadIdx.x == 0) reinterpret_cast<uint16_t*>(args.y)[blockIdx.x";
  const std::string rest = "] = 1 + blockIdx.x; if (i >= 4) " + place;
  EXPECT_CLEAN(add_many, {"add.cu", place, half + rest});
  EXPECT_FAULT("block race", add_many, {"add.cu", place, half + " / 2" + rest});
}

#ifdef SOFT_ASAN
// The fast pair's device code is under AddressSanitizer in a sanitized build.
class SanitizedSeededBugsTest : public SeededBugsTest {};

TEST_F(SanitizedSeededBugsTest, AddressSanitizerSeesDeviceCode) {
  EXPECT_EXIT(run_and_exit(normalise, {}, SPARKJIT_SOFTGPU_LIB), testing::ExitedWithCode(kClean), "");
  const Change too_far = {"device/reduce.cuh", "scratch[threadIdx.x / kWarpLanes] = v", "scratch[threadIdx.x / kWarpLanes + 1] = v"};
  // Whichever of the two sanitizers looks first.
  EXPECT_DEATH(run_and_exit(normalise, {too_far}, SPARKJIT_SOFTGPU_LIB),
               "AddressSanitizer: global-buffer-overflow|insufficient space for an object");
  EXPECT_DEATH(run_and_exit(add_short, {}, SPARKJIT_SOFTGPU_LIB), "AddressSanitizer: use-after-poison");
  EXPECT_DEATH(run_and_exit(add_misaligned, {}, SPARKJIT_SOFTGPU_LIB), "misaligned address");
}
#endif

TEST_F(SeededBugsTest, PointerToHostMemoryIsSeen) { EXPECT_FAULT("neither device nor shared memory", add_from_host); }

}  // namespace
}  // namespace sj::seeded_bugs_test
