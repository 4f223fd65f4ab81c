// Bundles in memory for tests: made of fake cubins, broken on purpose, with the checksums put right again.
#pragma once

#include <span>
#include <vector>

#include "cache/bundle.h"
#include "cache/bundle_format.h"
#include "cache/little_endian.h"
#include "tests/cache/fake_cubin.h"

namespace sj::test {

inline BundleManifest small_manifest() {
  return {.made_by = {"sparkjit 0.1.0"}, .compilers = {{13000, "abc/def"}}, .options = {{"sm_90", {"--gpu-architecture=sm_90"}}},
          .devices = {{.name = "NVIDIA H200", .target = "sm_90", .n_sms = 132, .smem_per_block_bytes = 232448}},
          .models = {{.model = "tiny", .device = "NVIDIA H200", .prefill_tokens = 512, .is_f32 = false, .n_kernels = 3}}};
}

/// fake_key(1) to fake_key(n).
inline BundleContent small_content(uint32_t n = 3, size_t n_bytes = 128) {
  BundleContent content;
  content.manifest = small_manifest();
  for (uint32_t i = 1; i <= n; ++i) content.add(fake_key(i), fake_cubin("sj_" + std::to_string(i), n_bytes), "test");
  return content;
}

/// Makes the checksums (not the signature) fit what the bytes are now, as somebody would who alters a file on purpose.
inline void reseal(std::span<std::byte> file) {
  using namespace bundle_format;
  if (file.size() < kManifestAt) return;
  const uint64_t n_manifest = get_int<uint64_t>(file, kManifestBytesAt), n_entries = get_int<uint64_t>(file, kEntriesAt);
  const uint64_t rest = file.size() - kManifestAt;
  if (n_manifest <= rest && n_entries <= (rest - n_manifest) / kIndexEntryBytes)
    put_hash(file, kMetaHashAt, hash_bytes(file.subspan(kManifestAt, n_manifest + n_entries * kIndexEntryBytes)));
  put_hash(file, kHeaderHashAt, hash_bytes(file.first(kHeaderHashAt)));
  put_hash(file, kSealHashAt, hash_bytes(file.subspan(kSealAt, kSealHashAt - kSealAt)));
}

}  // namespace sj::test
