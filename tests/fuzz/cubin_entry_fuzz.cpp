// libFuzzer target of a cached kernel: any bytes are either refused with a reason or give a cubin that encodes to a good entry.
//   cubin_entry_fuzz -timeout=1 -rss_limit_mb=512 -max_len=8192 WORK_CORPUS corpus/cubin_entry
// The first byte says how: bit 0: checksums are put right first, or nothing behind them would ever be reached.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cache/cubin_store.h"
#include "cache/little_endian.h"
#include "jit/base/error.h"
#include "tests/fuzz/require.h"

namespace {

constexpr size_t kKeyAt = 16, kKeyBytes = 32, kBodyHashAt = 64, kHeaderHashAt = 80, kHeaderBytes = 96;   // cubin_entry.cpp

void reseal(std::vector<std::byte>& file) {
  const std::span<std::byte> all = file;
  if (file.size() < kHeaderBytes) return;
  sj::put_hash(all, kBodyHashAt, sj::hash_bytes(all.subspan(kHeaderBytes)));
  sj::put_hash(all, kHeaderHashAt, sj::hash_bytes(all.first(kHeaderHashAt)));
}

void read_everything(const sj::Cubin& cubin, const std::string& key, size_t file_bytes) {
  require(cubin.bytes.size() <= file_bytes && sj::cubin_arch(cubin.bytes) != 0);
  try {
    sj::read_resources(cubin.bytes, cubin.entry);
  } catch (const sj::Error& error) {
    require(error.kind() == sj::ErrorKind::kInternal && !error.message().empty());
  }
  std::string why;
  const std::optional<sj::Cubin> again = sj::decode_entry(sj::encode_entry(key, cubin), key, &why);
  require(again && why.empty() && again->bytes == cubin.bytes && again->entry == cubin.entry && again->resources == cubin.resources);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size));
  std::vector<std::byte> file(bytes.begin() + 1, bytes.end());
  if ((data[0] & 1) != 0) reseal(file);
  std::string key(kKeyBytes, '0');
  if (file.size() >= kHeaderBytes) key.assign(reinterpret_cast<const char*>(file.data()) + kKeyAt, kKeyBytes);
  std::string why;
  const std::optional<sj::Cubin> cubin = sj::decode_entry(file, key, &why);
  require(cubin.has_value() == why.empty());
  if (cubin) read_everything(*cubin, key, file.size());
  return 0;
}
