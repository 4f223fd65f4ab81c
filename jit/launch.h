// LOADED KERNEL -> WORK ON A STREAM. In: kernel, shape, argument struct. Called by runtime/executor and tests.
#pragma once

#include <span>

#include "jit/module.h"

namespace sj {

struct LaunchOptions {
  bool pdl = false;  ///< programmatic stream serialization: may start before its predecessor in the stream ends
};

/// Enqueues one launch; inside a capture it becomes a node of the graph. `args` is the kernel's one argument struct, read
/// before the call returns. Throws kInternal when its size is not the kernel's; kCuda naming the kernel otherwise.
void launch(const LoadedKernel& kernel, const LaunchShape& shape, std::span<const std::byte> args, const Stream& stream,
            const LaunchOptions& options = {});

}  // namespace sj
