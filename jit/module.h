// CUBIN -> LOADED KERNEL. In: a cubin and the launch's dynamic shared memory. Out: a function handle with its attributes.
// Everything is loaded before the first step; nothing later. Called by runtime/plan and tests.
#pragma once

#include <cstdint>
#include <memory>

#include "jit/cubin.h"
#include "jit/driver.h"
#include "jit/kernel_spec.h"

namespace sj {

/// A kernel that is loaded on the current context's device. Movable; unloads in its destructor.
class LoadedKernel {
 public:
  LoadedKernel() = default;
  /// Loads `cubin` now (not lazily) and allows `dynamic_smem_bytes`. Throws kCuda naming the kernel, its target and the call;
  /// kUnsupported when the device has not that much shared memory a block.
  LoadedKernel(const Driver& drv, const Cubin& cubin, uint32_t dynamic_smem_bytes);
  LoadedKernel(LoadedKernel&& other) noexcept;
  LoadedKernel& operator=(LoadedKernel&& other) noexcept;
  ~LoadedKernel();

  CUfunction function() const { return function_; }
  const Driver& driver() const { return *drv_; }
  const std::string& label() const { return label_; }
  const KernelResources& resources() const { return resources_; }  ///< as the driver reports them
  uint32_t max_threads_per_block() const { return max_threads_per_block_; }
  uint32_t args_bytes() const { return args_bytes_; }              ///< size of the argument struct
  /// Resident blocks an SM.
  uint32_t blocks_per_sm(uint32_t block_threads, uint32_t dynamic_smem_bytes) const;

 private:
  void release() noexcept;
  const Driver* drv_ = nullptr;
  CUlibrary library_ = nullptr;
  CUfunction function_ = nullptr;
  std::string label_;
  KernelResources resources_;
  uint32_t max_threads_per_block_ = 0;
  uint32_t args_bytes_ = 0;
};

}  // namespace sj
