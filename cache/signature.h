// WHO MADE A FILE: Ed25519 signatures, and the digests that they cover. A cubin is code, so a machine may be told to load only
// what the holder of a key has signed. In: bytes and key files. Out: signatures, yes or no. The only door to libsodium.
// Called by bundle, prewarm and `bundle`.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace sj {

using Digest256 = std::array<std::byte, 32>;
using Signature = std::array<std::byte, 64>;

/// BLAKE2b of 256 bits: nobody can make other bytes of the same digest.
Digest256 secure_digest(std::span<const std::byte> bytes);

struct PublicKey {
  std::array<std::byte, 32> bytes = {};
  bool operator==(const PublicKey&) const = default;
  std::string hex() const;
};

/// A secret key; overwritten with zeros when it goes.
class SigningKey {
 public:
  static SigningKey generate();
  /// The key in a file that text() made. Throws kIo; kUsage when it holds no secret key. Warns when others may read the file.
  static SigningKey from_file(const std::string& path);
  SigningKey(const SigningKey&) = default;
  SigningKey& operator=(const SigningKey&) = default;
  ~SigningKey();
  PublicKey public_key() const;
  Signature sign(std::span<const std::byte> message) const;
  /// "sparkjit-secret-ed25519 <64 hex digits>\n"
  std::string text() const;

 private:
  SigningKey() = default;
  std::array<std::byte, 32> seed_ = {};
};

bool is_signature_of(const Signature& signature, std::span<const std::byte> message, const PublicKey& key);

/// Whose signatures count. No keys: signatures are not asked for.
struct TrustedKeys {
  std::string path;
  std::vector<PublicKey> keys;
  /// A key a line, "sparkjit-public-ed25519 <64 hex digits>"; empty lines and those that start with # are skipped. An empty
  /// `path` gives no keys. Throws kIo; kUsage naming the line, and for a file without a key.
  static TrustedKeys from_file(const std::string& path);
  bool is_asked() const { return !keys.empty(); }
  bool contains(const PublicKey& key) const;
};
/// The line of such a file.
std::string public_key_text(const PublicKey& key);

}  // namespace sj
