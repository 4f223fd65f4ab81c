#include "jit/module.h"

#include <fmt/format.h>

#include <utility>

namespace sj {

LoadedKernel::LoadedKernel(const Driver& drv, const Cubin& cubin, uint32_t dynamic_smem_bytes) : drv_(&drv), label_(cubin.label) {
  const std::string context = fmt::format("kernel {}@{}", cubin.label, cubin.target);
  try {
    drv.check(drv.cuLibraryLoadData(&library_, cubin.bytes.data(), nullptr, nullptr, 0, nullptr, nullptr, 0), "cuLibraryLoadData",
              context);
    CUkernel kernel = nullptr;
    drv.check(drv.cuLibraryGetKernel(&kernel, library_, cubin.entry.c_str()), "cuLibraryGetKernel", context);
    drv.check(drv.cuKernelGetFunction(&function_, kernel), "cuKernelGetFunction", context);
    drv.check(drv.cuFuncLoad(function_), "cuFuncLoad", context);
    const auto attribute = [&](CUfunction_attribute which) {
      int value = 0;
      drv.check(drv.cuFuncGetAttribute(&value, which, function_), "cuFuncGetAttribute", context);
      return static_cast<uint32_t>(value);
    };
    resources_.registers = attribute(CU_FUNC_ATTRIBUTE_NUM_REGS);
    resources_.stack_bytes = attribute(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
    resources_.static_smem_bytes = attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    resources_.spill_bytes = cubin.resources.spill_bytes;
    max_threads_per_block_ = attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    if (dynamic_smem_bytes > 0) {
      const CUresult result =
          drv.cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(dynamic_smem_bytes));
      if (result == CUDA_ERROR_INVALID_VALUE)
        throw Error(ErrorKind::kUnsupported,
                    fmt::format("kernel {} needs {} + {} bytes of shared memory a block, more than this device has", cubin.label,
                                resources_.static_smem_bytes, dynamic_smem_bytes));
      drv.check(result, "cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES)", context);
    }
    // An SM changes its split between L1 and shared memory only when it is empty: kernels that ask for different splits can't
    // run side by side on it, and a graph's next kernel could not start early.
    drv.check(drv.cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, CU_SHAREDMEM_CARVEOUT_MAX_SHARED),
              "cuFuncSetAttribute(PREFERRED_SHARED_MEMORY_CARVEOUT)", context);
    size_t offset = 0, size = 0;
    drv.check(drv.cuFuncGetParamInfo(function_, 0, &offset, &size), "cuFuncGetParamInfo", context);
    args_bytes_ = static_cast<uint32_t>(offset + size);
  } catch (...) {
    release();
    throw;
  }
}

LoadedKernel::LoadedKernel(LoadedKernel&& other) noexcept { *this = std::move(other); }

LoadedKernel& LoadedKernel::operator=(LoadedKernel&& other) noexcept {
  if (this != &other) {
    release();
    drv_ = other.drv_;
    library_ = std::exchange(other.library_, nullptr);
    function_ = std::exchange(other.function_, nullptr);
    label_ = std::move(other.label_);
    resources_ = other.resources_;
    max_threads_per_block_ = other.max_threads_per_block_;
    args_bytes_ = other.args_bytes_;
  }
  return *this;
}

LoadedKernel::~LoadedKernel() { release(); }

void LoadedKernel::release() noexcept {
  if (library_ != nullptr) drv_->log_failure(drv_->cuLibraryUnload(library_), "cuLibraryUnload");
  library_ = nullptr;
}

uint32_t LoadedKernel::blocks_per_sm(uint32_t block_threads, uint32_t dynamic_smem_bytes) const {
  int n = 0;
  drv_->check(drv_->cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, function_, static_cast<int>(block_threads), dynamic_smem_bytes),
              "cuOccupancyMaxActiveBlocksPerMultiprocessor", label_);
  return static_cast<uint32_t>(n);
}

}  // namespace sj
