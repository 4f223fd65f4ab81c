#include "runtime/options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "cache/tuning_db.h"
#include "jit/base/log.h"

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
          .bundle_paths = variable("SPARKJIT_BUNDLE"),
          .trust_path = variable("SPARKJIT_TRUST"),
          .tuning_path = variable("SPARKJIT_TUNING"),
          .kv_type = variable("SPARKJIT_KV_TYPE"),
          .xdg_cache_home = variable("XDG_CACHE_HOME"),
          .xdg_config_home = variable("XDG_CONFIG_HOME"),
          .xdg_runtime_dir = variable("XDG_RUNTIME_DIR"),
          .home = variable("HOME")};
}

void drop_compiler_variables() {
  constexpr const char* kName = "NVRTC_APPEND_FLAGS";
  const char* value = std::getenv(kName);
  if (value == nullptr) return;
  log_info("jit", "{}={} is ignored: it would change kernels behind the cache's back", kName, value);
  ::unsetenv(kName);
}

std::optional<int> cuda_ordinal(std::string_view device) {
  constexpr std::string_view kCuda = "cuda", kPrefix = "cuda:";
  if (device == kCuda) return 0;
  if (!device.starts_with(kPrefix)) return std::nullopt;
  int ordinal = -1;
  const char *begin = device.data() + kPrefix.size(), *end = device.data() + device.size();
  const auto [rest, error] = std::from_chars(begin, end, ordinal);
  return error == std::errc() && rest == end && ordinal >= 0 ? std::optional<int>(ordinal) : std::nullopt;
}

bool is_device_name(std::string_view device) { return device == "auto" || device == "cpu" || cuda_ordinal(device).has_value(); }

bool is_kv_type_name(std::string_view name) { return name == "f16" || name == "q8_0"; }

std::vector<std::string> split_paths(std::string_view paths) {
  std::vector<std::string> list;
  while (!paths.empty()) {
    const size_t end = std::min(paths.find(':'), paths.size());
    if (end > 0) list.emplace_back(paths.substr(0, end));
    paths.remove_prefix(std::min(paths.size(), end + 1));
  }
  return list;
}

SessionOptions resolve_options(SessionOptions options, const Environment& environment) {
  fill(options.libcuda_path, environment.libcuda_path);
  fill(options.libnvrtc_path, environment.libnvrtc_path);
  fill(options.trust_path, environment.trust_path);
  fill(options.kv_type, environment.kv_type);
  if (options.bundle_paths.empty()) options.bundle_paths = split_paths(environment.bundle_paths);
  fill(options.cache_dir, environment.cache_dir);
  fill(options.cache_dir, default_cache_dir(environment.xdg_cache_home, environment.home));
  fill(options.tuning_path, environment.tuning_path);
  if (options.tuning_path.empty()) {
    const std::string own = default_tuning_path(options.cache_dir);
    std::error_code ignored;   // a folder that can't be searched holds no default file
    options.tuning_path = options.may_compile && !own.empty() && std::filesystem::exists(own, ignored) ? own : "shipped";
  }
  return options;
}

KernelCacheOptions kernel_cache_options(const SessionOptions& options, const Environment& environment) {
  return {.cache_dir = options.cache_dir == "none" ? std::string() : options.cache_dir,
          .lock_dir = default_lock_dir(environment.xdg_runtime_dir),
          .kernel_dir = options.kernel_dir,
          .libnvrtc_path = options.libnvrtc_path,
          .bundle_paths = options.bundle_paths,
          .trust_key_path = options.trust_path,
          .may_compile = options.may_compile,
          .show_progress = options.show_progress};
}

}  // namespace sj
