#include "jit/launch.h"

#include <fmt/format.h>

namespace sj {

void launch(const LoadedKernel& kernel, const LaunchShape& shape, std::span<const std::byte> args, const Stream& stream,
            const LaunchOptions& options) {
  if (args.size() != kernel.args_bytes())
    throw Error(ErrorKind::kInternal, fmt::format("kernel {} takes {} bytes of arguments, got {}", kernel.label(),
                                                  kernel.args_bytes(), args.size()));
  CUlaunchAttribute attributes[1] = {};
  unsigned n_attributes = 0;
  if (options.pdl) {
    attributes[n_attributes].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attributes[n_attributes].value.programmaticStreamSerializationAllowed = 1;
    ++n_attributes;
  }
  CUlaunchConfig config = {};
  config.gridDimX = shape.grid.x;
  config.gridDimY = shape.grid.y;
  config.gridDimZ = shape.grid.z;
  config.blockDimX = shape.block.x;
  config.blockDimY = shape.block.y;
  config.blockDimZ = shape.block.z;
  config.sharedMemBytes = shape.dynamic_smem_bytes;
  config.hStream = stream.get();
  config.attrs = attributes;
  config.numAttrs = n_attributes;
  void* params[] = {const_cast<std::byte*>(args.data())};
  const Driver& drv = kernel.driver();
  const CUresult result = drv.cuLaunchKernelEx(&config, kernel.function(), args.empty() ? nullptr : params, nullptr);
  if (result != CUDA_SUCCESS)
    drv.check(result, "cuLaunchKernelEx",
              fmt::format("kernel {}, grid {}x{}x{}, block {}x{}x{}, {} bytes of dynamic shared memory", kernel.label(), shape.grid.x,
                          shape.grid.y, shape.grid.z, shape.block.x, shape.block.y, shape.block.z, shape.dynamic_smem_bytes));
}

}  // namespace sj
