// CUBINS FOR MANY CARDS IN ONE FILE, made where a compiler is and used where none is: read-only, mapped, shared by processes.
// In: a file. Out: cubins by key, each verified when it is asked for. Called by kernel_cache, prewarm and `bundle`.
//
//      0 header, 128 bytes   magic[8] "SJBUNDLE", format u32, header bytes u32, file bytes u64, manifest bytes u64, entries u64,
//                            entries' bytes u64, XXH3-128 of manifest and index [16], zeros [48], XXH3-128 of what is above [16]
//    128 seal, 112 bytes     public key [32], Ed25519 signature of header, manifest and index [64], XXH3-128 of these [16];
//                            key and signature are zero in an unsigned bundle
//    240 manifest            JSON
//        index               sorted by key, 64 bytes an entry: key [16], offset u64, bytes u64, BLAKE2b-256 of the entry [32]
//        entries             as the cubin store writes them (encode_entry), in the order of the index, without gaps
// Little-endian. Every byte is under a checksum, and under the signature where there is one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/bundle_manifest.h"
#include "cache/signature.h"
#include "jit/base/file.h"
#include "jit/cubin.h"

namespace sj {

class Bundle {
 public:
  Bundle(Bundle&&) noexcept = default;
  Bundle& operator=(Bundle&&) noexcept = default;
  /// Maps the file and checks everything but the entries. With trusted keys, one of them must have signed it.
  /// Throws kIo (can't be read; damaged, with what is wrong; not signed, or not by a trusted key), kUnsupported for a newer format.
  static Bundle open(const std::string& path, const TrustedKeys& trusted = {});
  /// The same for bytes that outlive the bundle; `name` stands for the file in messages.
  static Bundle from_bytes(std::span<const std::byte> bytes, const std::string& name, const TrustedKeys& trusted = {});

  /// The verified cubin; nothing when there is none. A damaged entry is a miss with a warning, and an error (kIo) where trusted
  /// keys are asked for: somebody altered it after signing. Thread-safe.
  std::optional<Cubin> find(const std::string& key) const;

  const std::string& name() const { return name_; }
  const BundleManifest& manifest() const { return manifest_; }
  const std::optional<PublicKey>& signer() const { return signer_; }   ///< whose valid signature it carries
  uint64_t n_entries() const { return n_entries_; }
  uint64_t size_bytes() const { return bytes_.size(); }
  /// Requires i < n_entries().
  std::string entry_key(uint64_t i) const;
  std::span<const std::byte> entry_bytes(uint64_t i) const;
  /// Nothing, with the reason in `why`, for a damaged entry.
  std::optional<Cubin> read_entry(uint64_t i, std::string* why) const;

 private:
  Bundle() = default;
  void read_layout();
  void read_manifest_and_index();
  void read_seal(const TrustedKeys& trusted);
  [[noreturn]] void refuse(std::string_view why) const;
  std::span<const std::byte> index_entry(uint64_t i) const;

  std::string name_;
  MappedFile file_;
  std::span<const std::byte> bytes_;
  std::vector<std::byte> meta_;   ///< all before the entries, copied: the file may change after it was checked
  std::span<const std::byte> manifest_bytes_, index_;   ///< of meta_
  BundleManifest manifest_;
  uint64_t n_entries_ = 0;
  std::optional<PublicKey> signer_;
  bool is_trust_asked_ = false;
};

/// What goes into a bundle.
struct BundleContent {
  BundleManifest manifest;
  std::map<std::string, std::vector<std::byte>> entries;   ///< by key, as encode_entry makes them

  /// Without what differs from one compile to the next (its time), so that equal inputs give equal bundles. The same key again
  /// must bring the same bytes: throws kIo naming `origin` and what was there first.
  void add(const std::string& key, Cubin cubin, const std::string& origin);
  /// Everything of `bundle`. Throws kIo for a damaged entry, and as add() does.
  void add(const Bundle& bundle);
  /// Devices, models and compilers in an order of their own: equal content gives equal bytes, however it was put together.
  std::vector<std::byte> encode(const SigningKey* key) const;

 private:
  std::map<std::string, std::string> origins_;
};

}  // namespace sj
