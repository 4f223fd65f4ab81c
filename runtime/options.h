// What the environment says, read once, and how it fills what the flags left open. The only file that calls getenv.
// In: SessionOptions, environment. Out: options of the kernel cache. Called by open_session and the tools.
#pragma once

#include <string>

#include "cache/kernel_cache.h"
#include "runtime/session.h"

namespace sj {

/// The variables that sparkjit knows; empty when unset.
struct Environment {
  std::string cache_dir;        ///< SPARKJIT_CACHE_DIR
  std::string libcuda_path;     ///< SPARKJIT_LIBCUDA
  std::string libnvrtc_path;    ///< SPARKJIT_LIBNVRTC
  std::string xdg_cache_home;   ///< XDG_CACHE_HOME
  std::string xdg_runtime_dir;  ///< XDG_RUNTIME_DIR
  std::string home;             ///< HOME
};

Environment read_environment();

/// Flag, else variable, else default, for each of cache_dir, libcuda_path and libnvrtc_path (the libraries' default is
/// empty: the loader's rules). The cache's default is default_cache_dir(); "none" keeps kernels in memory only.
SessionOptions resolve_options(SessionOptions options, const Environment& environment);

/// Options of the kernel cache of a session; `options` as resolve_options returns them.
KernelCacheOptions kernel_cache_options(const SessionOptions& options, const Environment& environment);

}  // namespace sj
