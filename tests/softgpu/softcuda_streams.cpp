// Streams, events, graphs, libraries and launches of the software driver.
#include <cstring>

#include "softgpu/soft_elf.h"
#include "softgpu/softcuda.h"

using namespace softgpu;

namespace softgpu {

CUresult enqueue(CUstream stream, Work work) {
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(work));
    return CUDA_SUCCESS;
  }
  return work();
}

}  // namespace softgpu

// ---- streams and events. What a releasing call is given is gone, also when it reports an error, as with the driver.

SOFT_API CUresult cuStreamCreate(CUstream* out, unsigned) {
  SOFT_ENTER_CONTEXT(cuStreamCreate);
  *out = new CUstream_st;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuStreamDestroy(CUstream stream) {
  const std::unique_ptr<CUstream_st> gone(stream);
  SOFT_ENTER(cuStreamDestroy);
  return static_cast<CUresult>(sticky_fault());
}
SOFT_API CUresult cuStreamSynchronize(CUstream stream) {
  SOFT_ENTER_CONTEXT(cuStreamSynchronize);
  note_full_barrier();
  return stream != nullptr && stream->capture != nullptr ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}
SOFT_API CUresult cuStreamQuery(CUstream stream) {
  SOFT_ENTER_CONTEXT(cuStreamQuery);
  return stream != nullptr && stream->capture != nullptr ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}
SOFT_API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  SOFT_ENTER_CONTEXT(cuStreamWaitEvent);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream != nullptr && event->capture != nullptr && stream->capture == nullptr) stream->capture = event->capture;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) {
  SOFT_ENTER_CONTEXT(cuStreamBeginCapture);
  if (stream == nullptr || stream->capture != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  stream->capture = new CUgraph_st;
  stream->is_origin = true;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuStreamEndCapture(CUstream stream, CUgraph* out) {
  std::unique_ptr<CUgraph_st> graph = stream == nullptr ? nullptr : stream->take_capture();
  SOFT_ENTER_CONTEXT(cuStreamEndCapture);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  *out = graph.release();
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuEventCreate(CUevent* out, unsigned flags) {
  SOFT_ENTER_CONTEXT(cuEventCreate);
  *out = new CUevent_st;
  (*out)->is_timed = (flags & CU_EVENT_DISABLE_TIMING) == 0;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuEventDestroy(CUevent event) {
  const std::unique_ptr<CUevent_st> gone(event);
  SOFT_ENTER(cuEventDestroy);
  return static_cast<CUresult>(sticky_fault());
}
SOFT_API CUresult cuEventRecord(CUevent event, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuEventRecord);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  event->capture = stream == nullptr ? nullptr : stream->capture;
  event->is_recorded = event->capture == nullptr;
  event->at = std::chrono::steady_clock::now();
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuEventSynchronize(CUevent event) {
  SOFT_ENTER_CONTEXT(cuEventSynchronize);
  return event == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}
SOFT_API CUresult cuEventQuery(CUevent event) {
  SOFT_ENTER_CONTEXT(cuEventQuery);
  return event == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}
SOFT_API CUresult cuEventElapsedTime(float* ms, CUevent start, CUevent end) {
  SOFT_ENTER_CONTEXT(cuEventElapsedTime);
  if (start == nullptr || end == nullptr || !start->is_timed || !end->is_timed || !start->is_recorded || !end->is_recorded)
    return CUDA_ERROR_INVALID_HANDLE;
  *ms = std::chrono::duration<float, std::milli>(end->at - start->at).count();
  return CUDA_SUCCESS;
}

// ---- graphs

SOFT_API CUresult cuGraphInstantiate(CUgraphExec* out, CUgraph graph, unsigned long long) {
  SOFT_ENTER_CONTEXT(cuGraphInstantiate);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = new CUgraphExec_st{graph->nodes};
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  SOFT_ENTER_CONTEXT(cuGraphLaunch);
  if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
  note_full_barrier();
  for (const Work& node : exec->nodes)
    if (const CUresult result = enqueue(stream, node); result != CUDA_SUCCESS) set_sticky_fault(result);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuGraphUpload(CUgraphExec exec, CUstream) {
  SOFT_ENTER_CONTEXT(cuGraphUpload);
  return exec == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
SOFT_API CUresult cuGraphDestroy(CUgraph graph) {
  const std::unique_ptr<CUgraph_st> gone(graph);
  SOFT_ENTER(cuGraphDestroy);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuGraphExecDestroy(CUgraphExec exec) {
  const std::unique_ptr<CUgraphExec_st> gone(exec);
  SOFT_ENTER(cuGraphExecDestroy);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* n) {
  SOFT_ENTER_CONTEXT(cuGraphGetNodes);
  if (graph == nullptr || n == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (nodes != nullptr)
    for (size_t i = 0; i < *n; ++i)
      nodes[i] = i < graph->nodes.size() ? reinterpret_cast<CUgraphNode>(&graph->nodes[i]) : nullptr;
  *n = graph->nodes.size();
  return CUDA_SUCCESS;
}

// ---- libraries and kernels. CUkernel and CUfunction are one object here.

SOFT_API CUresult cuLibraryLoadData(CUlibrary* out, const void* code, CUjit_option*, void**, unsigned, CUlibraryOption*, void**,
                                    unsigned) {
  SOFT_ENTER_CONTEXT(cuLibraryLoadData);
  const auto cubin = code == nullptr ? std::nullopt : read_cubin(code);
  if (!cubin) return CUDA_ERROR_INVALID_IMAGE;
  if (!config().runs(cubin->arch)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  std::string why;
  std::shared_ptr<Module> module = Module::load(cubin->host_image, cubin->arch, why);
  if (!module) {
    std::fprintf(stderr, "# softcuda: %s\n", why.c_str());
    return CUDA_ERROR_INVALID_IMAGE;
  }
  auto library = std::make_unique<CUlib_st>();
  for (uint32_t i = 0; i < module->image().n_kernels; ++i) {
    library->functions.push_back(std::make_unique<CUfunc_st>());
    *library->functions.back() = {module, i, 0};
  }
  library->module = std::move(module);
  *out = library.release();
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuLibraryUnload(CUlibrary library) {
  const std::unique_ptr<CUlib_st> gone(library);
  SOFT_ENTER(cuLibraryUnload);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuLibraryGetKernel(CUkernel* out, CUlibrary library, const char* name) {
  SOFT_ENTER_CONTEXT(cuLibraryGetKernel);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  for (const auto& function : library->functions)
    if (std::strcmp(library->module->image().kernels[function->kernel_idx].name, name) == 0) {
      *out = reinterpret_cast<CUkernel>(function.get());
      return CUDA_SUCCESS;
    }
  return CUDA_ERROR_NOT_FOUND;
}
SOFT_API CUresult cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
  SOFT_ENTER_CONTEXT(cuKernelGetFunction);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *out = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuFuncLoad(CUfunction function) {
  SOFT_ENTER_CONTEXT(cuFuncLoad);
  return function == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}
SOFT_API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
  SOFT_ENTER_CONTEXT(cuFuncGetAttribute);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = static_cast<int>(function->module->static_shared_bytes()); break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = static_cast<int>(kRegisters); break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = static_cast<int>(config().arch()); break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->max_dynamic_bytes; break;
    default: *value = 0; break;
  }
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
  SOFT_ENTER_CONTEXT(cuFuncSetAttribute);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || static_cast<uint64_t>(value) + function->module->static_shared_bytes() > config().smem_per_block_bytes)
    return CUDA_ERROR_INVALID_VALUE;
  function->max_dynamic_bytes = value;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuFuncGetParamInfo(CUfunction function, size_t idx, size_t* offset, size_t* size) {
  SOFT_ENTER_CONTEXT(cuFuncGetParamInfo);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const SoftKernel& kernel = function->module->image().kernels[function->kernel_idx];
  if (idx >= kernel.n_params) return CUDA_ERROR_INVALID_VALUE;
  *offset = kernel.params[idx].offset;
  if (size != nullptr) *size = kernel.params[idx].size;
  return CUDA_SUCCESS;
}
SOFT_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, CUfunction function, int n_threads, size_t dynamic_bytes) {
  SOFT_ENTER_CONTEXT(cuOccupancyMaxActiveBlocksPerMultiprocessor);
  if (function == nullptr || n_threads <= 0) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t threads = static_cast<uint64_t>(n_threads + 31) / 32 * 32;
  const uint64_t smem = function->module->static_shared_bytes() + dynamic_bytes + 1024;
  *n = static_cast<int>(std::min<uint64_t>({config().max_threads_per_sm / threads, config().smem_per_sm_bytes / smem,
                                            config().regs_per_sm / (threads * kRegisters), 32}));
  return CUDA_SUCCESS;
}

SOFT_API CUresult cuLaunchKernelEx(const CUlaunchConfig* launch_config, CUfunction function, void** params, void** extra) {
  SOFT_ENTER_CONTEXT(cuLaunchKernelEx);
  if (launch_config == nullptr || function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const CUlaunchConfig& c = *launch_config;
  const uint64_t n_threads = uint64_t{c.blockDimX} * c.blockDimY * c.blockDimZ;
  const uint64_t n_blocks = uint64_t{c.gridDimX} * c.gridDimY * c.gridDimZ;
  if (n_threads == 0 || n_threads > 1024 || c.blockDimZ > 64 || n_blocks == 0 || c.gridDimX > 0x7fffffff || c.gridDimY > 65535 ||
      c.gridDimZ > 65535 || extra != nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t static_bytes = function->module->static_shared_bytes();
  const uint64_t most = function->max_dynamic_bytes > 0 ? static_cast<uint64_t>(function->max_dynamic_bytes)
                                                        : 49152 - std::min<uint64_t>(49152, static_bytes);
  if (c.sharedMemBytes > most || static_bytes > 49152) return CUDA_ERROR_INVALID_VALUE;
  if (n_threads * kRegisters > 65536) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;

  const SoftKernel& kernel = function->module->image().kernels[function->kernel_idx];
  if (kernel.n_params != 0 && params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto launch = std::make_shared<Launch>();
  launch->module = function->module;
  launch->kernel_idx = function->kernel_idx;
  const uint32_t grid[3] = {c.gridDimX, c.gridDimY, c.gridDimZ}, block[3] = {c.blockDimX, c.blockDimY, c.blockDimZ};
  std::copy_n(grid, 3, launch->grid);
  std::copy_n(block, 3, launch->block);
  launch->dynamic_bytes = c.sharedMemBytes;
  for (unsigned i = 0; i < c.numAttrs; ++i)
    if (c.attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
      launch->is_programmatic = c.attrs[i].value.programmaticStreamSerializationAllowed != 0;
  for (uint32_t i = 0; i < kernel.n_params; ++i) {
    const char* const bytes = static_cast<const char*>(params[i]);
    launch->params.emplace_back(bytes, bytes + kernel.params[i].size);
  }
  return enqueue(c.hStream, [launch] {
    run_launch(*launch);
    return CUDA_SUCCESS;
  });
}
