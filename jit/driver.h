// The only door to libcuda.so.1: opened with dlopen, a table of typed functions, and owners of driver objects.
// In: a library path or nothing. Out: `const Driver&`, valid until the process ends. Called by jit/, runtime/ and tools/.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "jit/base/error.h"

namespace sj {

/// Every driver function that sparkjit calls. cuda.h renames some to their versioned symbol (cuMemAlloc becomes
/// cuMemAlloc_v2); the macro sees the new name, so the table holds the entry point that cuda.h's types belong to.
#define SJ_DRIVER_CALLS(X)                                                                                           \
  X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString)                                              \
  X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetAttribute) X(cuDeviceTotalMem)                  \
  X(cuDeviceGetUuid) X(cuDeviceGetPCIBusId)                                                                          \
  X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) X(cuCtxSetCurrent) X(cuCtxSynchronize)                    \
  X(cuMemAlloc) X(cuMemFree) X(cuMemGetInfo) X(cuMemHostAlloc) X(cuMemFreeHost) X(cuMemHostGetDevicePointer)         \
  X(cuMemcpyHtoD) X(cuMemcpyDtoH) X(cuMemcpyDtoD) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemcpyDtoDAsync)     \
  X(cuMemsetD8) X(cuMemsetD32) X(cuMemsetD8Async) X(cuMemsetD32Async)                                                \
  X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamQuery) X(cuStreamWaitEvent)                  \
  X(cuStreamBeginCapture) X(cuStreamEndCapture)                                                                      \
  X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord) X(cuEventSynchronize) X(cuEventQuery) X(cuEventElapsedTime)    \
  X(cuLibraryLoadData) X(cuLibraryUnload) X(cuLibraryGetKernel) X(cuKernelGetFunction)                               \
  X(cuFuncGetAttribute) X(cuFuncSetAttribute) X(cuFuncLoad) X(cuFuncGetParamInfo) X(cuLaunchKernelEx)                \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor)                                                                     \
  X(cuGraphInstantiate) X(cuGraphLaunch) X(cuGraphUpload) X(cuGraphDestroy) X(cuGraphExecDestroy) X(cuGraphGetNodes)

struct DriverTable {
#define SJ_DRIVER_MEMBER(name) decltype(&::name) name = nullptr;
  SJ_DRIVER_CALLS(SJ_DRIVER_MEMBER)
#undef SJ_DRIVER_MEMBER
};

/// "13.0" for 13000: how CUDA numbers the versions of drivers and compilers, 1000 * major + 10 * minor.
std::string cuda_version_text(int version);

/// The opened and initialised driver. Calls are written `drv.check(drv.cuMemFree(p), "cuMemFree", "weights")`.
struct Driver : DriverTable {
  std::string path;  ///< file that was opened
  int version = 0;   ///< highest CUDA version that the driver serves: 1000 * major + 10 * minor

  /// Throws kCuda "<call> failed: <NAME> (<text>)" with `context` as frame unless `result` is CUDA_SUCCESS.
  void check(CUresult result, const char* call, std::string_view context = {}) const;
  /// For destructors: logs a failure, each kind of failure once a process. After the driver has shut down, at process exit,
  /// there is nothing to release.
  void log_failure(CUresult result, const char* call) const noexcept;
  /// "CUDA_ERROR_X (text)".
  std::string result_text(CUresult result) const;
};

/// The driver at `path` (empty: libcuda.so.1), opened and initialised once a path; null when it is missing, too old (older
/// than CUDA 12.8) or has no device, with the reason in `why`. Thread-safe.
const Driver* find_driver(const std::string& path = {}, std::string* why = nullptr);
/// The same; throws kCuda with the reason and what to do about it.
const Driver& require_driver(const std::string& path = {});
/// Number of devices. Throws kCuda.
int device_count(const Driver& drv);

/// Owner of one driver object: movable, releases in its destructor, where a failure is logged and never thrown.
template <class Handle>
class Owned {
 public:
  Owned() = default;
  Owned(const Driver& drv, Handle handle) : drv_(&drv), handle_(handle) {}
  Owned(Owned&& other) noexcept : drv_(other.drv_), handle_(other.handle_) { other.handle_ = {}; }
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) {
      release();
      drv_ = other.drv_;
      handle_ = other.handle_;
      other.handle_ = {};
    }
    return *this;
  }
  ~Owned() { release(); }
  Handle get() const { return handle_; }
  const Driver& driver() const { return *drv_; }
  explicit operator bool() const { return handle_ != Handle{}; }

 private:
  void release() noexcept;
  const Driver* drv_ = nullptr;
  Handle handle_ = {};
};

template <> void Owned<CUstream>::release() noexcept;
template <> void Owned<CUevent>::release() noexcept;
template <> void Owned<CUgraph>::release() noexcept;
template <> void Owned<CUgraphExec>::release() noexcept;

/// The primary context of one device, retained; made current for the calling thread by the constructor.
class Context {
 public:
  Context() = default;
  /// Throws kCuda when there is no device `ordinal`.
  Context(const Driver& drv, int ordinal);
  Context(Context&& other) noexcept;
  Context& operator=(Context&& other) noexcept;
  ~Context();
  /// Each further thread that makes driver calls calls this first.
  void make_current() const;
  const Driver& driver() const { return *drv_; }
  CUdevice device() const { return device_; }
  int ordinal() const { return ordinal_; }

 private:
  void release() noexcept;
  const Driver* drv_ = nullptr;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  int ordinal_ = 0;
};

class Stream : public Owned<CUstream> {
 public:
  Stream() = default;
  explicit Stream(const Driver& drv);  ///< non-blocking: no implicit ordering with the default stream
  void synchronize(std::string_view context = {}) const;
  bool is_done() const;  ///< all work finished; throws kCuda when the work failed
};

class Event : public Owned<CUevent> {
 public:
  Event() = default;
  explicit Event(const Driver& drv, bool timing = true);
  void record(const Stream& stream) const;
  void synchronize() const;
  bool is_done() const;
  /// Microseconds from `start` to this event; both recorded and done.
  double elapsed_us(const Event& start) const;
};

/// Makes later work of `stream` wait for `event`.
void wait_event(const Stream& stream, const Event& event);

/// Device memory, 256-byte aligned.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws kCuda "out of GPU memory for <what>: needed N bytes, free M bytes of T" when it does not fit. 0 bytes is valid
  /// and holds no memory.
  DeviceBuffer(const Driver& drv, uint64_t n_bytes, std::string_view what);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();
  CUdeviceptr ptr() const { return ptr_; }
  template <class T>
  T* as(uint64_t offset_bytes = 0) const { return reinterpret_cast<T*>(ptr_ + offset_bytes); }
  uint64_t size_bytes() const { return n_bytes_; }

 private:
  void release() noexcept;
  const Driver* drv_ = nullptr;
  CUdeviceptr ptr_ = 0;
  uint64_t n_bytes_ = 0;
};

/// Page-locked host memory that the device reads and writes at device_ptr().
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  /// Throws kCuda when the memory can't be locked. `write_combined`: host only writes, sequentially.
  PinnedBuffer(const Driver& drv, uint64_t n_bytes, std::string_view what, bool write_combined = false);
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  ~PinnedBuffer();
  std::byte* data() const { return data_; }
  template <class T>
  T* as() const { return reinterpret_cast<T*>(data_); }
  CUdeviceptr device_ptr() const { return device_ptr_; }
  uint64_t size_bytes() const { return n_bytes_; }

 private:
  void release() noexcept;
  const Driver* drv_ = nullptr;
  std::byte* data_ = nullptr;
  CUdeviceptr device_ptr_ = 0;
  uint64_t n_bytes_ = 0;
};

/// Copies. With a stream: enqueued; the host side must be pinned for the copy to be asynchronous. Without: done on return.
void copy_to_device(const Driver& drv, CUdeviceptr dst, const void* src, uint64_t n_bytes);
void copy_to_device(const Stream& stream, CUdeviceptr dst, const void* src, uint64_t n_bytes);
void copy_to_host(const Driver& drv, void* dst, CUdeviceptr src, uint64_t n_bytes);
void copy_to_host(const Stream& stream, void* dst, CUdeviceptr src, uint64_t n_bytes);
void copy_on_device(const Stream& stream, CUdeviceptr dst, CUdeviceptr src, uint64_t n_bytes);
void fill_bytes(const Stream& stream, CUdeviceptr dst, uint8_t value, uint64_t n_bytes);
void fill_words(const Stream& stream, CUdeviceptr dst, uint32_t value, uint64_t n_words);

struct MemoryInfo {
  uint64_t free_bytes = 0, total_bytes = 0;
};
/// Of the current context's device.
MemoryInfo memory_info(const Driver& drv);

class Graph : public Owned<CUgraph> {
 public:
  using Owned::Owned;
  uint64_t n_nodes() const;
};

/// Records what `enqueue` puts on `stream` (thread-local capture mode). Throws what `enqueue` throws, with the capture ended.
Graph capture_graph(const Stream& stream, const std::function<void()>& enqueue);

class GraphExec : public Owned<CUgraphExec> {
 public:
  GraphExec() = default;
  explicit GraphExec(const Graph& graph);
  void upload(const Stream& stream) const;
  void launch(const Stream& stream) const;
};

}  // namespace sj
