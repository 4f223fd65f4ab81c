// libcuda.so.1 of the software GPU: the driver entry points that sparkjit uses. Work runs when it is enqueued, in the calling
// thread and the pool's; a fault shows at the next call, as on a device.
#include "softgpu/softcuda.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

namespace softgpu {

thread_local CUcontext t_context = nullptr;

namespace {

/// Uses of each call so far.
std::map<std::string, uint64_t>& uses() {
  static auto* const counts = new std::map<std::string, uint64_t>;
  return *counts;
}

void write_uses() {
  std::ofstream out(config().calls_path);
  for (const auto& [call, n] : uses()) out << call << ' ' << n << '\n';
}

}  // namespace

CUresult enter(const char* call) {
  static std::mutex mutex;
  if (config().faults.empty() && config().calls_path.empty()) return CUDA_SUCCESS;
  const std::lock_guard lock(mutex);
  if (uses().empty() && !config().calls_path.empty()) std::atexit(write_uses);
  const uint64_t use = ++uses()[call];
  for (const Fault& fault : config().faults)
    if (fault.call == call && (use == fault.nth || (fault.is_for_ever && use > fault.nth))) {
      const CUresult code = static_cast<CUresult>(fault.code);
      std::fprintf(stderr, "# softcuda: %s fails as asked, use %llu\n", call, static_cast<unsigned long long>(use));
      if (is_sticky(code)) set_sticky_fault(code);
      return code;
    }
  return CUDA_SUCCESS;
}

bool is_sticky(CUresult code) {
  switch (code) {
    case CUDA_ERROR_ILLEGAL_ADDRESS: case CUDA_ERROR_LAUNCH_TIMEOUT: case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_MISALIGNED_ADDRESS: case CUDA_ERROR_ASSERT: case CUDA_ERROR_ECC_UNCORRECTABLE: case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION: case CUDA_ERROR_HARDWARE_STACK_ERROR:
      return true;
    default: return false;
  }
}

CUresult enter_context(const char* call) {
  if (const CUresult result = enter(call); result != CUDA_SUCCESS) return result;
  if (sticky_fault() != 0) return static_cast<CUresult>(sticky_fault());
  return t_context == nullptr ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

}  // namespace softgpu

using namespace softgpu;

// ---- process and devices

SOFT_API CUresult cuInit(unsigned flags) {
  SOFT_ENTER(cuInit);
  if (!config().problem.empty()) {
    std::fprintf(stderr, "# softcuda: %s\n", config().problem.c_str());
    return CUDA_ERROR_NO_DEVICE;
  }
  return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
SOFT_API CUresult cuDriverGetVersion(int* version) {
  SOFT_ENTER(cuDriverGetVersion);
  *version = config().driver_version;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuGetErrorName(CUresult code, const char** out) {
  switch (code) {
#define SOFT_NAME(name) case name: *out = #name; return CUDA_SUCCESS;
    SOFT_ERROR_CODES(SOFT_NAME)
#undef SOFT_NAME
    default: *out = nullptr; return CUDA_ERROR_INVALID_VALUE;
  }
}
SOFT_API CUresult cuGetErrorString(CUresult code, const char** out) {
  if (cuGetErrorName(code, out) != CUDA_SUCCESS) return CUDA_ERROR_INVALID_VALUE;
  switch (code) {
    case CUDA_SUCCESS: *out = "no error"; break;
    case CUDA_ERROR_INVALID_VALUE: *out = "invalid argument"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *out = "out of memory"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *out = "an illegal memory access was encountered"; break;
    case CUDA_ERROR_LAUNCH_FAILED: *out = "unspecified launch failure"; break;
    case CUDA_ERROR_LAUNCH_TIMEOUT: *out = "the launch timed out and was terminated"; break;
    case CUDA_ERROR_NO_BINARY_FOR_GPU: *out = "no kernel image is available for execution on the device"; break;
    default: *out = "software GPU error"; break;
  }
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceGetCount(int* n) {
  SOFT_ENTER(cuDeviceGetCount);
  *n = 1;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  SOFT_ENTER(cuDeviceGet);
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  *device = 0;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceGetName(char* name, int n, CUdevice device) {
  SOFT_ENTER(cuDeviceGetName);
  if (device != 0 || n <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::strncpy(name, config().name.c_str(), static_cast<size_t>(n) - 1);
  name[n - 1] = '\0';
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceTotalMem(size_t* n_bytes, CUdevice device) {
  SOFT_ENTER(cuDeviceTotalMem);
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  *n_bytes = config().memory_bytes;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice) {
  SOFT_ENTER(cuDeviceGetUuid);
  std::memcpy(uuid->bytes, "softgpu-00000000", 16);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceGetPCIBusId(char* text, int n, CUdevice) {
  SOFT_ENTER(cuDeviceGetPCIBusId);
  if (n < 13) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(text, "0000:00:00.0", 13);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
  SOFT_ENTER(cuDeviceGetAttribute);
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  const Config& c = config();
  const auto set = [&](uint64_t v) { *value = static_cast<int>(v); };
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: set(c.compute_major); break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: set(c.compute_minor); break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: set(c.n_sms); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: set(49152); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: set(c.smem_per_block_bytes); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: set(c.smem_per_sm_bytes); break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: set(c.regs_per_sm); break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: set(65536); break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: set(c.max_threads_per_sm); break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: set(1024); break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: set(32); break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: set(c.l2_bytes); break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: set(c.is_integrated); break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: set(2000000); break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: set(static_cast<uint64_t>(c.bandwidth_gb_per_s * 1e9 / 128 / 1e3)); break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: set(512); break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY: case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS: set(1); break;
    default: set(0); break;
  }
  return CUDA_SUCCESS;
}

// ---- contexts

SOFT_API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  SOFT_ENTER(cuDevicePrimaryCtxRetain);
  static int primary;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  *context = reinterpret_cast<CUcontext>(&primary);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  SOFT_ENTER(cuDevicePrimaryCtxRelease);
  return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
SOFT_API CUresult cuCtxSetCurrent(CUcontext context) {
  SOFT_ENTER(cuCtxSetCurrent);
  t_context = context;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuCtxSynchronize() {
  SOFT_ENTER_CONTEXT(cuCtxSynchronize);
  return CUDA_SUCCESS;
}

// ---- memory

namespace {

/// A range that a copy or fill may touch on the device side.
bool is_device_range(CUdeviceptr p, size_t n) { return n == 0 || Memory::instance().find(p, n).has_value(); }

CUresult copy_bytes(void* dst, const void* src, size_t n, CUdeviceptr device_a, CUdeviceptr device_b) {
  if ((device_a != 0 && !is_device_range(device_a, n)) || (device_b != 0 && !is_device_range(device_b, n)) ||
      ((dst == nullptr || src == nullptr) && n != 0))
    return CUDA_ERROR_INVALID_VALUE;
  if (n == 0) return CUDA_SUCCESS;
  std::memmove(dst, src, n);
  note_full_barrier();
  if (device_a != 0 && device_b != 0) DeviceShadow::instance().host_copied(device_a, device_b, n);
  else if (device_a != 0) DeviceShadow::instance().host_wrote(device_a, n, true);
  return CUDA_SUCCESS;
}

template <class T>
CUresult fill(CUdeviceptr dst, T value, size_t n) {
  if (dst % sizeof(T) != 0 || !is_device_range(dst, n * sizeof(T))) return CUDA_ERROR_INVALID_VALUE;
  std::fill_n(reinterpret_cast<T*>(dst), n, value);
  note_full_barrier();
  // Tests fill memory with 0xCC where they want unwritten elements to show: the checked doubles take that for "no value".
  DeviceShadow::instance().host_wrote(dst, n * sizeof(T), !(sizeof(T) == 1 && value == static_cast<T>(0xCC)));
  return CUDA_SUCCESS;
}

void* host(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

}  // namespace

SOFT_API CUresult cuMemAlloc(CUdeviceptr* out, size_t n) {
  SOFT_ENTER_CONTEXT(cuMemAlloc);
  if (out == nullptr || n == 0) return CUDA_ERROR_INVALID_VALUE;
  const auto address = Memory::instance().allocate(n);
  if (!address) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = *address;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuMemFree(CUdeviceptr p) {
  SOFT_ENTER_CONTEXT(cuMemFree);
  return p == 0 || Memory::instance().release(p) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
SOFT_API CUresult cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  SOFT_ENTER_CONTEXT(cuMemGetInfo);
  *total_bytes = Memory::instance().total_bytes();
  *free_bytes = *total_bytes - Memory::instance().used_bytes();
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuMemHostAlloc(void** out, size_t n, unsigned) {
  SOFT_ENTER_CONTEXT(cuMemHostAlloc);
  const auto address = Memory::instance().allocate_pinned(n);
  if (!address) return n == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
  *out = host(*address);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuMemFreeHost(void* p) {
  SOFT_ENTER_CONTEXT(cuMemFreeHost);
  return Memory::instance().release_pinned(reinterpret_cast<uint64_t>(p)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
SOFT_API CUresult cuMemHostGetDevicePointer(CUdeviceptr* out, void* p, unsigned) {
  SOFT_ENTER_CONTEXT(cuMemHostGetDevicePointer);
  const auto found = Memory::instance().find(reinterpret_cast<uint64_t>(p), 1);
  if (!found || !found->is_pinned) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUdeviceptr>(p);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuMemcpyHtoD(CUdeviceptr dst, const void* src, size_t n) {
  SOFT_ENTER_CONTEXT(cuMemcpyHtoD);
  return copy_bytes(host(dst), src, n, dst, 0);
}
SOFT_API CUresult cuMemcpyDtoH(void* dst, CUdeviceptr src, size_t n) {
  SOFT_ENTER_CONTEXT(cuMemcpyDtoH);
  return copy_bytes(dst, host(src), n, 0, src);
}
SOFT_API CUresult cuMemcpyDtoD(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  SOFT_ENTER_CONTEXT(cuMemcpyDtoD);
  return copy_bytes(host(dst), host(src), n, dst, src);
}
SOFT_API CUresult cuMemsetD8(CUdeviceptr dst, unsigned char v, size_t n) {
  SOFT_ENTER_CONTEXT(cuMemsetD8);
  return fill<unsigned char>(dst, v, n);
}
SOFT_API CUresult cuMemsetD32(CUdeviceptr dst, unsigned v, size_t n) {
  SOFT_ENTER_CONTEXT(cuMemsetD32);
  return fill<unsigned>(dst, v, n);
}
SOFT_API CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void* src, size_t n, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuMemcpyHtoDAsync);
  return enqueue(stream, [=] { return copy_bytes(host(dst), src, n, dst, 0); });
}
SOFT_API CUresult cuMemcpyDtoHAsync(void* dst, CUdeviceptr src, size_t n, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuMemcpyDtoHAsync);
  return enqueue(stream, [=] { return copy_bytes(dst, host(src), n, 0, src); });
}
SOFT_API CUresult cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuMemcpyDtoDAsync);
  return enqueue(stream, [=] { return copy_bytes(host(dst), host(src), n, dst, src); });
}
SOFT_API CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char v, size_t n, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuMemsetD8Async);
  return enqueue(stream, [=] { return fill<unsigned char>(dst, v, n); });
}
SOFT_API CUresult cuMemsetD32Async(CUdeviceptr dst, unsigned v, size_t n, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuMemsetD32Async);
  return enqueue(stream, [=] { return fill<unsigned>(dst, v, n); });
}
