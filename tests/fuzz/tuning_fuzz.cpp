// libFuzzer target of the tuning database: any text is either taken, and then written and read back to the same, or refused
// with an error that names the file.
//   tuning_fuzz -dict=tuning.dict -timeout=1 -rss_limit_mb=512 -max_len=4096 WORK_CORPUS corpus/tuning
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cache/tuning_db.h"
#include "jit/base/error.h"
#include "jit/embedded_sources.h"
#include "tests/fuzz/require.h"

// Named by tuning_db.cpp, called by nothing here. Weak: the replay links the real ones.
namespace sj {
__attribute__((weak)) std::span<const EmbeddedSource> embedded_sources() { return {}; }
__attribute__((weak)) std::string DeviceInfo::target() const { return {}; }
}  // namespace sj

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const sj::TuningDb db = sj::parse_tuning_db({reinterpret_cast<const char*>(data), size}, "fuzz");
    require(sj::parse_tuning_db(sj::tuning_db_text(db), "again") == db);
    sj::TuningDb merged = db;
    sj::merge_records(merged, db.records);
    require(merged.records.size() <= db.records.size());
  } catch (const sj::Error& error) {
    require(error.kind() == sj::ErrorKind::kUsage || error.kind() == sj::ErrorKind::kUnsupported);
    require(error.message().starts_with("fuzz:"));
  }
  return 0;
}
