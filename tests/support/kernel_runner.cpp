#include "tests/support/kernel_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "jit/compiler.h"
#include "jit/driver.h"
#include "jit/launch.h"
#include "jit/module.h"
#include "jit/nvrtc.h"

namespace sj::test {

bool has_gpu(std::string* why) { return find_driver({}, why) != nullptr; }
bool has_nvrtc(std::string* why) { return find_nvrtc({}, why) != nullptr; }

struct KernelRunner::State {
  const Driver& drv = require_driver();
  Context context{drv, 0};
  DeviceInfo device = device_info(drv, 0);
  Stream stream{drv};
  std::vector<DeviceBuffer> buffers;
  std::map<std::string, LoadedKernel> kernels;  ///< by source, entry, baked text and dynamic shared memory

  const LoadedKernel& require_kernel(const KernelSpec& spec) {
    const std::string key = fmt::format("{}|{}|{}|{}", spec.source, spec.entry, spec.launch.dynamic_smem_bytes, baked_header(spec));
    auto it = kernels.find(key);
    if (it == kernels.end()) {
      const Cubin cubin = compile(require_nvrtc(), {.spec = spec, .sources = SourceSet::embedded(), .target = device.target()});
      it = kernels.emplace(key, LoadedKernel(drv, cubin, spec.launch.dynamic_smem_bytes)).first;
    }
    return it->second;
  }
};

KernelRunner::KernelRunner() : state_(std::make_unique<State>()) {}
KernelRunner::~KernelRunner() = default;

const DeviceInfo& KernelRunner::device() const { return state_->device; }

void* KernelRunner::alloc_bytes(uint64_t n_bytes) {
  state_->buffers.emplace_back(state_->drv, std::max<uint64_t>(n_bytes, 1), "test buffer");
  const DeviceBuffer& buffer = state_->buffers.back();
  fill_bytes(state_->stream, buffer.ptr(), 0xCC, buffer.size_bytes());
  state_->stream.synchronize();
  return buffer.as<void>();
}

void* KernelRunner::upload_bytes(const void* host, uint64_t n_bytes) {
  void* const device = alloc_bytes(n_bytes);
  if (n_bytes > 0) copy_to_device(state_->drv, reinterpret_cast<CUdeviceptr>(device), host, n_bytes);
  return device;
}

void KernelRunner::download_bytes(void* host, const void* device, uint64_t n_bytes) {
  if (n_bytes > 0) copy_to_host(state_->drv, host, reinterpret_cast<CUdeviceptr>(device), n_bytes);
}

void KernelRunner::run_bytes(const KernelSpec& spec, std::span<const std::byte> args, bool pdl) {
  launch(state_->require_kernel(spec), spec.launch, args, state_->stream, {.pdl = pdl});
  state_->stream.synchronize(kernel_label(spec));
}

double KernelRunner::time_bytes_us(const KernelSpec& spec, std::span<const std::byte> args, uint32_t n_runs) {
  const LoadedKernel& kernel = state_->require_kernel(spec);
  const Graph graph = capture_graph(state_->stream, [&] {
    for (uint32_t i = 0; i < n_runs; ++i) launch(kernel, spec.launch, args, state_->stream, {.pdl = true});
  });
  const GraphExec exec(graph);
  exec.launch(state_->stream);
  std::vector<double> times_us;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const Event begin(state_->drv), end(state_->drv);
    begin.record(state_->stream);
    exec.launch(state_->stream);
    end.record(state_->stream);
    end.synchronize();
    times_us.push_back(end.elapsed_us(begin) / n_runs);
  }
  std::nth_element(times_us.begin(), times_us.begin() + 2, times_us.end());
  return times_us[2];
}

std::vector<CompiledFor> compile_for(const KernelSpec& spec, const std::vector<std::string>& targets) {
  std::vector<CompiledFor> results;
  for (const std::string& target : targets) {
    const Cubin cubin = compile(require_nvrtc(), {.spec = spec, .sources = SourceSet::embedded(), .target = target});
    results.push_back({target, cubin.resources, cubin.bytes.size(), cubin.compile_us});
  }
  return results;
}

::testing::AssertionResult compiles_everywhere(const KernelSpec& spec, const std::vector<std::string>& targets) {
  const uint32_t n_threads = spec.launch.block.x * spec.launch.block.y * spec.launch.block.z;
  const auto refuse = [&](const std::string& target, const std::string& why) {
    return ::testing::AssertionFailure() << kernel_label(spec) << "@" << target << ": " << why;
  };
  if (n_threads == 0 || n_threads > 1024) return refuse("any", fmt::format("{} threads a block, expected 1 to 1024", n_threads));
  std::vector<CompiledFor> results;
  try {
    results = compile_for(spec, targets);
  } catch (const Error& error) {
    return ::testing::AssertionFailure() << error.what();
  }
  for (const CompiledFor& result : results) {
    const KernelResources& r = result.resources;
    if (r.spill_bytes > 0 && !spec.may_spill) return refuse(result.target, fmt::format("spills {} bytes a thread", r.spill_bytes));
    if (r.stack_bytes > 0 && !spec.may_spill)
      return refuse(result.target, fmt::format("keeps {} bytes a thread in local memory", r.stack_bytes));
    const uint32_t most_smem = result.target == "sm_90" ? 227 * 1024 : 99 * 1024;
    const uint32_t smem = r.static_smem_bytes + spec.launch.dynamic_smem_bytes;
    if (smem > most_smem) return refuse(result.target, fmt::format("{} bytes of shared memory a block, at most {}", smem, most_smem));
    if (uint64_t{r.registers} * n_threads > 65536)
      return refuse(result.target, fmt::format("{} registers x {} threads do not fit an SM", r.registers, n_threads));
  }
  return ::testing::AssertionSuccess();
}

}  // namespace sj::test
