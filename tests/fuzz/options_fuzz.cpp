// libFuzzer target of the options file: any text is either taken or refused as a usage error that names the file.
//   options_fuzz -dict=options.dict -timeout=1 -rss_limit_mb=512 -max_len=4096 WORK_CORPUS corpus/options
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "jit/base/error.h"
#include "runtime/options_file.h"
#include "tests/fuzz/require.h"

// Named by options.cpp, called by nothing here. Weak: the replay links the cache's own.
namespace sj {
__attribute__((weak)) std::string default_cache_dir(const std::string&, const std::string&) { return {}; }
__attribute__((weak)) std::string default_lock_dir(const std::string&) { return {}; }
__attribute__((weak)) std::string default_tuning_path(const std::string&) { return {}; }
}  // namespace sj

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sj::SessionOptions options;
  try {
    sj::apply_config_text({reinterpret_cast<const char*>(data), size}, "fuzz", options);
    require(options.max_ctx_tokens <= 1u << 24);
  } catch (const sj::Error& error) {
    require(error.kind() == sj::ErrorKind::kUsage);
    require(error.message().starts_with("fuzz:"));
  }
  return 0;
}
