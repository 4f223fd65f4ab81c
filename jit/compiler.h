// TEXT -> CUBIN. In: a kernel spec, a target and the kernel texts. Out: a cubin, or an Error with NVRTC's log. The only
// caller of nvrtcCompileProgram. Called by cache/kernel_cache and by tests.
#pragma once

#include <string>
#include <vector>

#include "jit/cubin.h"
#include "jit/kernel_spec.h"
#include "jit/nvrtc.h"
#include "jit/source_set.h"

namespace sj {

struct CompileRequest {
  const KernelSpec& spec;
  const SourceSet& sources;
  std::string target;         ///< "sm_90", "sm_120f", "sm_121f"
  std::string dump_dir = {};  ///< where the source of a kernel that fails to compile is written; empty: nowhere
};

/// Options that change the cubin's bytes, in call order; part of the cache key.
std::vector<std::string> codegen_options(const std::string& target);

/// Compiles one kernel. Equal requests give equal bytes. Only the given texts are read, never a file. Thread-safe.
/// A kernel that spills though its spec does not allow that is a warning here and a failure in the tests.
/// Throws kCompile with kernel label, target, options, compiler, the path of the dumped source and NVRTC's log; also when the
/// compiler does not know the target.
Cubin compile(const Nvrtc& nvrtc, const CompileRequest& request);

}  // namespace sj
