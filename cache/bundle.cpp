#include "cache/bundle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "cache/bundle_format.h"
#include "cache/cubin_store.h"
#include "cache/little_endian.h"
#include "jit/base/error.h"
#include "jit/base/log.h"

namespace sj {
namespace {

using namespace bundle_format;
using Bytes = std::span<const std::byte>;

bool is_zero(Bytes bytes) { return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; }); }

template <size_t n>
std::array<std::byte, n> copy_of(Bytes bytes, size_t at) {
  std::array<std::byte, n> out;
  std::memcpy(out.data(), bytes.data() + at, n);
  return out;
}

std::string key_text(Bytes binary) {
  std::string text;
  for (const std::byte b : binary) text += fmt::format("{:02x}", static_cast<unsigned>(b));
  return text;
}

/// False for anything but 32 hex digits.
bool key_bytes(const std::string& text, std::array<std::byte, kIndexKeyBytes>& out) {
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  if (text.size() != 2 * out.size()) return false;
  for (size_t i = 0; i < out.size(); ++i) {
    const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<std::byte>(16 * high + low);
  }
  return true;
}

std::vector<std::byte> signed_message(Bytes header, Bytes manifest, Bytes index) {
  const Bytes parts[] = {std::as_bytes(std::span(kSignedAs)), header, manifest, index};
  std::vector<std::byte> message;
  for (const Bytes part : parts) message.insert(message.end(), part.begin(), part.end());
  return message;
}

}  // namespace

void Bundle::refuse(std::string_view why) const { throw Error(ErrorKind::kIo, fmt::format("bundle {} is damaged: {}", name_, why)); }

Bundle Bundle::open(const std::string& path, const TrustedKeys& trusted) {
  MappedFile file(path);
  Bundle bundle = from_bytes(file.bytes(), path, trusted);
  bundle.file_ = std::move(file);   // the mapping stays where it is
  return bundle;
}

Bundle Bundle::from_bytes(Bytes bytes, const std::string& name, const TrustedKeys& trusted) {
  Bundle bundle;
  bundle.name_ = name;
  bundle.bytes_ = bytes;
  bundle.is_trust_asked_ = trusted.is_asked();
  bundle.read_layout();
  bundle.read_seal(trusted);
  bundle.read_manifest_and_index();
  return bundle;
}

void Bundle::read_layout() {
  if (bytes_.size() < kMagic.size() || as_text(bytes_.first(kMagic.size())) != kMagic)
    throw Error(ErrorKind::kIo, fmt::format("{} is no bundle: its first bytes are not {}", name_, kMagic));
  if (bytes_.size() < kManifestAt) refuse(fmt::format("{} bytes are less than a header", bytes_.size()));
  const auto copy_up_to = [&](uint64_t end) {
    meta_.insert(meta_.end(), bytes_.begin() + static_cast<ptrdiff_t>(meta_.size()), bytes_.begin() + static_cast<ptrdiff_t>(end));
  };
  copy_up_to(kManifestAt);
  if (const uint32_t version = get_int<uint32_t>(meta_, kVersionAt); version != kVersion)
    throw Error(ErrorKind::kUnsupported, fmt::format("bundle {} has format {}, this sparkjit reads {}: make it with this version of sparkjit, or "
                                                     "use the sparkjit that made it", name_, version, kVersion));
  if (hash_bytes(Bytes(meta_).first(kHeaderHashAt)) != get_hash(meta_, kHeaderHashAt)) refuse("the header's checksum differs");
  if (get_int<uint32_t>(meta_, kHeaderBytesAt) != kHeaderBytes) refuse("wrong header size");
  if (!is_zero(Bytes(meta_).subspan(kMetaHashAt + 16, kHeaderHashAt - kMetaHashAt - 16))) refuse("reserved bytes are not zero");
  if (const uint64_t n = get_int<uint64_t>(meta_, kFileBytesAt); n != bytes_.size())
    refuse(fmt::format("the file has {} bytes, its header says {}", bytes_.size(), n));
  const uint64_t n_manifest = get_int<uint64_t>(meta_, kManifestBytesAt), n_data = get_int<uint64_t>(meta_, kEntriesBytesAt);
  n_entries_ = get_int<uint64_t>(meta_, kEntriesAt);
  uint64_t rest = bytes_.size() - kManifestAt;
  if (n_manifest > rest) refuse(fmt::format("a manifest of {} bytes doesn't fit the file", n_manifest));
  rest -= n_manifest;
  if (n_entries_ > rest / kIndexEntryBytes) refuse(fmt::format("an index of {} entries doesn't fit the file", n_entries_));
  rest -= n_entries_ * kIndexEntryBytes;
  if (n_data != rest) refuse(fmt::format("entries of {} bytes, the header says {}", rest, n_data));
  copy_up_to(bytes_.size() - rest);
  manifest_bytes_ = Bytes(meta_).subspan(kManifestAt, n_manifest);
  index_ = Bytes(meta_).subspan(kManifestAt + n_manifest);
  if (hash_bytes(Bytes(meta_).subspan(kManifestAt)) != get_hash(meta_, kMetaHashAt)) refuse("the checksum of manifest and index differs");
}

void Bundle::read_seal(const TrustedKeys& trusted) {
  const Bytes seal = Bytes(meta_).subspan(kSealAt, kSealHashAt - kSealAt);
  if (hash_bytes(seal) != get_hash(meta_, kSealHashAt)) refuse("the seal's checksum differs");
  if (is_zero(seal)) {
    if (trusted.is_asked())
      throw Error(ErrorKind::kIo, fmt::format("bundle {} is refused: it is not signed, and only bundles signed by a key of {} are trusted", name_,
                                              trusted.path));
    return;
  }
  const PublicKey key{copy_of<32>(meta_, kSealAt)};
  if (trusted.is_asked() && !trusted.contains(key))
    throw Error(ErrorKind::kIo, fmt::format("bundle {} is refused: it is signed by key {}, which is not in {}", name_, key.hex(), trusted.path));
  const std::vector<std::byte> message = signed_message(Bytes(meta_).first(kHeaderBytes), manifest_bytes_, index_);
  if (!is_signature_of(copy_of<64>(meta_, kSignatureAt), message, key))
    throw Error(ErrorKind::kIo, fmt::format("bundle {} is refused: its signature by key {} is not of this content: it was altered after signing",
                                            name_, key.hex()));
  signer_ = key;
}

void Bundle::read_manifest_and_index() {
  std::string why;
  std::optional<BundleManifest> manifest = parse_manifest(as_text(manifest_bytes_), why);
  if (!manifest) refuse("its manifest can't be read: " + why);
  manifest_ = std::move(*manifest);
  uint64_t next = meta_.size();
  for (uint64_t i = 0; i < n_entries_; ++i) {
    const Bytes entry = index_entry(i);
    const uint64_t offset = get_int<uint64_t>(entry, kIndexOffsetAt), n = get_int<uint64_t>(entry, kIndexBytesAt);
    if (offset != next || n > bytes_.size() - next) refuse(fmt::format("entry {} lies at {} + {}, expected at {}", i, offset, n, next));
    next += n;
    if (i > 0 && std::memcmp(index_entry(i - 1).data(), entry.data(), kIndexKeyBytes) >= 0) refuse(fmt::format("entry {} is not in order", i));
  }
  if (next != bytes_.size()) refuse(fmt::format("the entries end at {} of {} bytes", next, bytes_.size()));
}

Bytes Bundle::index_entry(uint64_t i) const { return index_.subspan(i * kIndexEntryBytes, kIndexEntryBytes); }

std::string Bundle::entry_key(uint64_t i) const { return key_text(index_entry(i).first(kIndexKeyBytes)); }

Bytes Bundle::entry_bytes(uint64_t i) const {
  const Bytes entry = index_entry(i);
  return bytes_.subspan(get_int<uint64_t>(entry, kIndexOffsetAt), get_int<uint64_t>(entry, kIndexBytesAt));
}

std::optional<Cubin> Bundle::read_entry(uint64_t i, std::string* why) const {
  // What is checked is what is used, also when the file changes meanwhile.
  const std::vector<std::byte> bytes(entry_bytes(i).begin(), entry_bytes(i).end());
  // The checksum inside the entry finds accidents; the digest, which costs more, finds intent where that matters.
  if (signer_ && secure_digest(bytes) != copy_of<32>(index_entry(i), kIndexDigestAt)) {
    if (why != nullptr) *why = "its digest is not the one that was signed";
    return std::nullopt;
  }
  return decode_entry(bytes, entry_key(i), why);
}

std::optional<Cubin> Bundle::find(const std::string& key) const {
  std::array<std::byte, kIndexKeyBytes> wanted;
  if (!key_bytes(key, wanted)) return std::nullopt;
  uint64_t low = 0, high = n_entries_;
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    const int order = std::memcmp(index_entry(middle).data(), wanted.data(), wanted.size());
    if (order == 0) {
      std::string why;
      std::optional<Cubin> cubin = read_entry(middle, &why);
      if (cubin) return cubin;
      if (is_trust_asked_) throw Error(ErrorKind::kIo, fmt::format("bundle {} is refused: kernel entry {} was altered: {}", name_, key, why));
      log_warning("bundle", "entry {} of {} is damaged ({}) and not used", key, name_, why);
      return std::nullopt;
    }
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return std::nullopt;
}

void BundleContent::add(const std::string& key, Cubin cubin, const std::string& origin) {
  cubin.compile_us = 0;
  std::vector<std::byte> bytes = encode_entry(key, cubin);
  const auto [it, is_new] = entries.try_emplace(key, std::move(bytes));
  if (is_new) origins_[key] = origin;
  else if (it->second != bytes)   // try_emplace leaves what it does not take
    throw Error(ErrorKind::kIo, fmt::format("kernel {}@{} (key {}) has other code in {} than in {}: one of them is not what its key says", cubin.label,
                                            cubin.target, key, origin, origins_[key]));
}

void BundleContent::add(const Bundle& bundle) {
  for (uint64_t i = 0; i < bundle.n_entries(); ++i) {
    std::string why;
    std::optional<Cubin> cubin = bundle.read_entry(i, &why);
    if (!cubin) throw Error(ErrorKind::kIo, fmt::format("bundle {}: entry {} is damaged: {}", bundle.name(), bundle.entry_key(i), why));
    add(bundle.entry_key(i), std::move(*cubin), bundle.name());
  }
  merge_manifest(manifest, bundle.manifest());
}

std::vector<std::byte> BundleContent::encode(const SigningKey* key) const {
  BundleManifest sorted = manifest;
  std::sort(sorted.made_by.begin(), sorted.made_by.end());
  const auto sort_by = [](auto& list, auto project) {
    std::sort(list.begin(), list.end(), [&](const auto& a, const auto& b) { return project(a) < project(b); });
  };
  sort_by(sorted.compilers, [](const CompilerId& c) { return std::tuple(-c.version, c.build_id); });
  sort_by(sorted.devices, [](const BundleDevice& d) { return std::tuple(d.name, d.target, d.n_sms, d.smem_per_block_bytes); });
  sort_by(sorted.models, [](const BundleModel& m) { return std::tuple(m.model, m.device, m.prefill_tokens, m.is_f32, m.kv_type, m.n_kernels); });
  const std::string text = manifest_text(sorted);

  const size_t data_at = kManifestAt + text.size() + entries.size() * kIndexEntryBytes;
  size_t n_data = 0;
  for (const auto& [name, bytes] : entries) n_data += bytes.size();
  std::vector<std::byte> file(data_at + n_data);
  const std::span<std::byte> out(file);
  std::memcpy(file.data(), kMagic.data(), kMagic.size());
  put_int(out, kVersionAt, uint32_t{kVersion});
  put_int(out, kHeaderBytesAt, static_cast<uint32_t>(kHeaderBytes));
  put_int(out, kFileBytesAt, static_cast<uint64_t>(file.size()));
  put_int(out, kManifestBytesAt, static_cast<uint64_t>(text.size()));
  put_int(out, kEntriesAt, static_cast<uint64_t>(entries.size()));
  put_int(out, kEntriesBytesAt, static_cast<uint64_t>(n_data));
  std::memcpy(file.data() + kManifestAt, text.data(), text.size());
  size_t at = data_at, index_at = kManifestAt + text.size();
  for (const auto& [name, bytes] : entries) {
    std::array<std::byte, kIndexKeyBytes> binary;
    if (!key_bytes(name, binary)) throw Error(ErrorKind::kInternal, fmt::format("cache key {} is not of 32 hex digits", name));
    const Digest256 digest = secure_digest(bytes);
    std::memcpy(file.data() + index_at, binary.data(), binary.size());
    put_int(out, index_at + kIndexOffsetAt, static_cast<uint64_t>(at));
    put_int(out, index_at + kIndexBytesAt, static_cast<uint64_t>(bytes.size()));
    std::memcpy(file.data() + index_at + kIndexDigestAt, digest.data(), digest.size());
    std::copy(bytes.begin(), bytes.end(), file.begin() + static_cast<ptrdiff_t>(at));
    at += bytes.size();
    index_at += kIndexEntryBytes;
  }
  put_hash(out, kMetaHashAt, hash_bytes(out.subspan(kManifestAt, data_at - kManifestAt)));
  put_hash(out, kHeaderHashAt, hash_bytes(out.first(kHeaderHashAt)));
  if (key != nullptr) {
    const PublicKey signer = key->public_key();
    const Signature signature = key->sign(signed_message(out.first(kHeaderBytes), out.subspan(kManifestAt, text.size()),
                                                         out.subspan(kManifestAt + text.size(), entries.size() * kIndexEntryBytes)));
    std::memcpy(file.data() + kSealAt, signer.bytes.data(), signer.bytes.size());
    std::memcpy(file.data() + kSignatureAt, signature.data(), signature.size());
  }
  put_hash(out, kSealHashAt, hash_bytes(out.subspan(kSealAt, kSealHashAt - kSealAt)));
  return file;
}

}  // namespace sj
