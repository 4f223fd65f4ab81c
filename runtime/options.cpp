#include "runtime/options.h"

#include <cstdlib>

namespace sj {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

void fill(std::string& option, const std::string& fallback) {
  if (option.empty()) option = fallback;
}

}  // namespace

Environment read_environment() {
  return {.cache_dir = variable("SPARKJIT_CACHE_DIR"),
          .libcuda_path = variable("SPARKJIT_LIBCUDA"),
          .libnvrtc_path = variable("SPARKJIT_LIBNVRTC"),
          .xdg_cache_home = variable("XDG_CACHE_HOME"),
          .xdg_runtime_dir = variable("XDG_RUNTIME_DIR"),
          .home = variable("HOME")};
}

SessionOptions resolve_options(SessionOptions options, const Environment& environment) {
  fill(options.libcuda_path, environment.libcuda_path);
  fill(options.libnvrtc_path, environment.libnvrtc_path);
  fill(options.cache_dir, environment.cache_dir);
  fill(options.cache_dir, default_cache_dir(environment.xdg_cache_home, environment.home));
  return options;
}

KernelCacheOptions kernel_cache_options(const SessionOptions& options, const Environment& environment) {
  return {.cache_dir = options.cache_dir == "none" ? std::string() : options.cache_dir,
          .lock_dir = default_lock_dir(environment.xdg_runtime_dir),
          .kernel_dir = options.kernel_dir,
          .libnvrtc_path = options.libnvrtc_path,
          .show_progress = options.show_progress};
}

}  // namespace sj
