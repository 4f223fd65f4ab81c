// What the parts of libcuda.so.1's double share. Included by softcuda.cpp and softcuda_streams.cpp only.
#pragma once

#include <cuda.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "softgpu/soft_checks.h"
#include "softgpu/soft_config.h"
#include "softgpu/soft_executor.h"
#include "softgpu/soft_memory.h"

#define SOFT_API extern "C" __attribute__((visibility("default")))

#define SOFT_STRING_OF(name) #name
#define SOFT_SYMBOL_OF(name) SOFT_STRING_OF(name)
/// Opens every entry point: injected faults come back here, under the name of the symbol ("cuMemAlloc_v2").
#define SOFT_ENTER(call) \
  if (const CUresult soft_result = softgpu::enter(SOFT_SYMBOL_OF(call)); soft_result != CUDA_SUCCESS) return soft_result
/// The same for calls that need a current context: the sticky fault comes back too.
#define SOFT_ENTER_CONTEXT(call) \
  if (const CUresult soft_result = softgpu::enter_context(SOFT_SYMBOL_OF(call)); soft_result != CUDA_SUCCESS) return soft_result

#define SOFT_ERROR_CODES(X)                                                                                              \
  X(CUDA_SUCCESS) X(CUDA_ERROR_INVALID_VALUE) X(CUDA_ERROR_OUT_OF_MEMORY) X(CUDA_ERROR_NOT_INITIALIZED)                  \
  X(CUDA_ERROR_DEINITIALIZED) X(CUDA_ERROR_NO_DEVICE) X(CUDA_ERROR_INVALID_DEVICE) X(CUDA_ERROR_DEVICE_UNAVAILABLE)      \
  X(CUDA_ERROR_INVALID_IMAGE) X(CUDA_ERROR_INVALID_CONTEXT) X(CUDA_ERROR_NO_BINARY_FOR_GPU)                              \
  X(CUDA_ERROR_ECC_UNCORRECTABLE) X(CUDA_ERROR_INVALID_SOURCE) X(CUDA_ERROR_INVALID_HANDLE) X(CUDA_ERROR_NOT_FOUND)      \
  X(CUDA_ERROR_NOT_READY) X(CUDA_ERROR_ILLEGAL_ADDRESS) X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)                            \
  X(CUDA_ERROR_LAUNCH_TIMEOUT) X(CUDA_ERROR_ASSERT) X(CUDA_ERROR_HARDWARE_STACK_ERROR)                                   \
  X(CUDA_ERROR_ILLEGAL_INSTRUCTION) X(CUDA_ERROR_MISALIGNED_ADDRESS) X(CUDA_ERROR_LAUNCH_FAILED)                         \
  X(CUDA_ERROR_NOT_SUPPORTED) X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)          \
  X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD) X(CUDA_ERROR_UNKNOWN)

namespace softgpu {

extern thread_local CUcontext t_context;

CUresult enter(const char* call);
CUresult enter_context(const char* call);
bool is_sticky(CUresult code);

using Work = std::function<CUresult()>;
/// Runs `work` now, or adds it to the graph that `stream` is capturing.
CUresult enqueue(CUstream stream, Work work);

}  // namespace softgpu

struct CUgraph_st {
  std::vector<softgpu::Work> nodes;
};
struct CUgraphExec_st {
  std::vector<softgpu::Work> nodes;
};
struct CUstream_st {
  CUgraph capture = nullptr;     ///< the graph that calls on this stream are recorded in
  bool is_origin = false;        ///< the capture began here; other streams joined through an event

  /// The capture ends; null when it did not begin here.
  std::unique_ptr<CUgraph_st> take_capture() {
    return std::unique_ptr<CUgraph_st>(std::exchange(is_origin, false) ? std::exchange(capture, nullptr) : nullptr);
  }
  ~CUstream_st() { take_capture(); }
};
struct CUevent_st {
  bool is_timed = true;
  bool is_recorded = false;
  std::chrono::steady_clock::time_point at;
  CUgraph capture = nullptr;     ///< recorded inside this capture
};
struct CUlib_st {
  std::shared_ptr<softgpu::Module> module;
  std::vector<std::unique_ptr<CUfunc_st>> functions;
};
struct CUfunc_st {
  std::shared_ptr<softgpu::Module> module;
  uint32_t kernel_idx = 0;
  int max_dynamic_bytes = 0;     ///< allowed through cuFuncSetAttribute; 0: the default of 48 KB in all
};
