// What the environment says, read once, and how it fills what the flags left open. The only file that calls getenv.
// In: SessionOptions, environment. Out: options of the kernel cache. Called by open_session and the tools.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/kernel_cache.h"
#include "runtime/session.h"

namespace sj {

/// The variables that sparkjit knows; empty when unset.
struct Environment {
  std::string cache_dir;        ///< SPARKJIT_CACHE_DIR
  std::string libcuda_path;     ///< SPARKJIT_LIBCUDA
  std::string libnvrtc_path;    ///< SPARKJIT_LIBNVRTC
  std::string bundle_paths;     ///< SPARKJIT_BUNDLE: files with colons between them
  std::string trust_path;       ///< SPARKJIT_TRUST
  std::string tuning_path;      ///< SPARKJIT_TUNING
  std::string kv_type;          ///< SPARKJIT_KV_TYPE: f16 or q8_0
  std::string xdg_cache_home;   ///< XDG_CACHE_HOME
  std::string xdg_config_home;  ///< XDG_CONFIG_HOME
  std::string xdg_runtime_dir;  ///< XDG_RUNTIME_DIR
  std::string home;             ///< HOME
};

Environment read_environment();

/// Removes the variables by which a compiler library would change the code it makes (NVRTC_APPEND_FLAGS): the cache's key
/// doesn't know them, so their cubins would be taken for ordinary ones. Says so in the log. Called before NVRTC is opened;
/// no other thread may use the environment meanwhile.
void drop_compiler_variables();

/// N of "cuda:N", 0 of "cuda"; nothing for other names.
std::optional<int> cuda_ordinal(std::string_view device);
/// auto, cpu, cuda or cuda:N.
bool is_device_name(std::string_view device);

/// f16 or q8_0.
bool is_kv_type_name(std::string_view name);

/// The paths of SPARKJIT_BUNDLE; empty ones are left out.
std::vector<std::string> split_paths(std::string_view paths);

/// Flag, else variable, else default, for each of kv_type, cache_dir, libcuda_path, libnvrtc_path (the libraries' default is empty: the
/// loader's rules), bundle_paths and trust_path (default: none), tuning_path. The cache's default is default_cache_dir(); "none"
/// keeps kernels in memory only. The tuning's default is default_tuning_path() when the file exists and kernels may be compiled,
/// else "shipped": what is built in, which is what bundles hold.
SessionOptions resolve_options(SessionOptions options, const Environment& environment);

/// Options of the kernel cache of a session; `options` as resolve_options returns them.
KernelCacheOptions kernel_cache_options(const SessionOptions& options, const Environment& environment);

}  // namespace sj
