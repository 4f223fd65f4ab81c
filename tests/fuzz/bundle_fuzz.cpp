// libFuzzer target of the bundle reader: any bytes are either refused with a proper Error or give entries that lie in the file.
//   bundle_fuzz -timeout=1 -rss_limit_mb=512 -max_len=8192 WORK_CORPUS corpus/bundle
// The first byte says how: bit 0: checksums are put right first, or nothing behind them would ever be reached; bit 1: trusted keys
// are asked for.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "jit/base/error.h"
#include "jit/base/log.h"
#include "tests/cache/bundle_bytes.h"
#include "tests/fuzz/require.h"

namespace {

void read_everything(const sj::Bundle& bundle, std::span<const std::byte> file) {
  uint64_t n_bytes = 0;
  for (uint64_t i = 0; i < bundle.n_entries(); ++i) {
    const std::span<const std::byte> entry = bundle.entry_bytes(i);
    require(entry.data() >= file.data() && entry.data() + entry.size() <= file.data() + file.size());
    n_bytes += entry.size();
    const std::string key = bundle.entry_key(i);
    require(key.size() == 32 && (i == 0 || bundle.entry_key(i - 1) < key));
    std::string why;
    const std::optional<sj::Cubin> cubin = bundle.read_entry(i, &why);
    require(cubin.has_value() != !why.empty());
    require(bundle.find(key).has_value() == cubin.has_value());
    if (cubin) require(cubin->bytes.size() <= entry.size() && sj::cubin_arch(cubin->bytes) != 0);
  }
  require(n_bytes <= file.size());   // else entries overlap
  sj::BundleContent content;
  try {
    content.add(bundle);
    require(content.entries.size() == bundle.n_entries());
    const std::vector<std::byte> again = content.encode(nullptr);
    require(sj::Bundle::from_bytes(again, "again").n_entries() == bundle.n_entries());
  } catch (const sj::Error& error) {   // a damaged entry
    require(error.kind() == sj::ErrorKind::kIo);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  sj::set_log_level(sj::LogLevel::kQuiet);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size));
  std::vector<std::byte> file(bytes.begin() + 1, bytes.end());
  if ((data[0] & 1) != 0) sj::test::reseal(file);
  static const sj::TrustedKeys nobody_has = {.path = "fuzz.pub", .keys = {sj::SigningKey::generate().public_key()}};
  try {
    const sj::Bundle bundle = sj::Bundle::from_bytes(file, "fuzz", (data[0] & 2) != 0 ? nobody_has : sj::TrustedKeys());
    require((data[0] & 2) == 0);   // nobody can have signed it
    read_everything(bundle, file);
  } catch (const sj::Error& error) {
    require(error.kind() == sj::ErrorKind::kIo || error.kind() == sj::ErrorKind::kUnsupported);
    require(error.message().find("fuzz") != std::string::npos);
  }
  return 0;
}
