#include "cache/signature.h"

#include <fmt/format.h>
#include <sodium.h>
#include <sys/stat.h>

#include <algorithm>
#include <string_view>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/base/log.h"

namespace sj {
namespace {

constexpr std::string_view kPublicPrefix = "sparkjit-public-ed25519 ", kSecretPrefix = "sparkjit-secret-ed25519 ";

using KeyBytes = std::array<std::byte, 32>;
static_assert(crypto_sign_PUBLICKEYBYTES == 32 && crypto_sign_SEEDBYTES == 32 && crypto_sign_BYTES == 64);

void start_sodium() {
  static const bool is_ready = sodium_init() >= 0;
  if (!is_ready) throw Error(ErrorKind::kInternal, "libsodium can't start: the system gives no random numbers");
}

template <size_t n>
unsigned char* raw(std::array<std::byte, n>& bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }
template <size_t n>
const unsigned char* raw(const std::array<std::byte, n>& bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }
const unsigned char* raw(std::span<const std::byte> bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

std::string to_hex(const KeyBytes& bytes) {
  char text[2 * 32 + 1];
  sodium_bin2hex(text, sizeof text, raw(bytes), bytes.size());
  return text;
}

bool parse_hex(std::string_view text, KeyBytes& out) {
  size_t n_bytes = 0;
  return text.size() == 64 && sodium_hex2bin(raw(out), out.size(), text.data(), text.size(), nullptr, &n_bytes, nullptr) == 0 &&
         n_bytes == out.size();
}

/// The lines of a key file without comments, each with its number.
std::vector<std::pair<size_t, std::string_view>> key_lines(std::string_view text) {
  std::vector<std::pair<size_t, std::string_view>> lines;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(text.size(), end + 1));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (!line.empty() && line.front() != '#') lines.emplace_back(number, line);
  }
  return lines;
}

/// The found text is not repeated: it may be a secret.
[[noreturn]] void refuse_key(const std::string& path, size_t line, std::string_view prefix, std::string_view found) {
  const std::string_view what = found.starts_with(kSecretPrefix)   ? "a secret key"
                                : found.starts_with(kPublicPrefix) ? "a public key"
                                                                   : "something else";
  throw Error(ErrorKind::kUsage, fmt::format("key file {}, line {}: expected '{}' and 64 hex digits, found {}{}", path, line, prefix,
                                             what, found.starts_with(prefix) ? " of another form" : ""));
}

PublicKey public_key_of(const KeyBytes& seed, unsigned char* secret) {
  PublicKey key;
  crypto_sign_seed_keypair(raw(key.bytes), secret, raw(seed));
  return key;
}

}  // namespace

Digest256 secure_digest(std::span<const std::byte> bytes) {
  start_sodium();
  Digest256 digest;
  crypto_generichash(raw(digest), digest.size(), raw(bytes), bytes.size(), nullptr, 0);
  return digest;
}

std::string PublicKey::hex() const { return to_hex(bytes); }

SigningKey SigningKey::generate() {
  start_sodium();
  SigningKey key;
  randombytes_buf(key.seed_.data(), key.seed_.size());
  return key;
}

SigningKey SigningKey::from_file(const std::string& path) {
  start_sodium();
  std::string text = read_file(path);
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0 && (info.st_mode & 077) != 0)
    log_warning("key", "{} holds a secret key and others may read or write it (mode {:04o}); chmod 600 it", path, info.st_mode & 07777);
  const auto lines = key_lines(text);
  if (lines.empty()) throw Error(ErrorKind::kUsage, fmt::format("key file {}: holds no key", path));
  SigningKey key;
  const auto [number, line] = lines.front();
  if (!line.starts_with(kSecretPrefix) || !parse_hex(line.substr(kSecretPrefix.size()), key.seed_)) refuse_key(path, number, kSecretPrefix, line);
  sodium_memzero(text.data(), text.size());
  return key;
}

SigningKey::~SigningKey() { sodium_memzero(seed_.data(), seed_.size()); }

PublicKey SigningKey::public_key() const {
  unsigned char secret[crypto_sign_SECRETKEYBYTES];
  const PublicKey key = public_key_of(seed_, secret);
  sodium_memzero(secret, sizeof secret);
  return key;
}

Signature SigningKey::sign(std::span<const std::byte> message) const {
  unsigned char secret[crypto_sign_SECRETKEYBYTES];
  public_key_of(seed_, secret);
  Signature signature;
  crypto_sign_detached(raw(signature), nullptr, raw(message), message.size(), secret);
  sodium_memzero(secret, sizeof secret);
  return signature;
}

std::string SigningKey::text() const { return fmt::format("{}{}\n", kSecretPrefix, to_hex(seed_)); }

bool is_signature_of(const Signature& signature, std::span<const std::byte> message, const PublicKey& key) {
  start_sodium();
  return crypto_sign_verify_detached(raw(signature), raw(message), message.size(), raw(key.bytes)) == 0;
}

TrustedKeys TrustedKeys::from_file(const std::string& path) {
  TrustedKeys trusted{.path = path, .keys = {}};
  if (path.empty()) return trusted;
  const std::string text = read_file(path);
  for (const auto& [number, line] : key_lines(text)) {
    PublicKey key;
    if (!line.starts_with(kPublicPrefix) || !parse_hex(line.substr(kPublicPrefix.size()), key.bytes)) refuse_key(path, number, kPublicPrefix, line);
    trusted.keys.push_back(key);
  }
  if (trusted.keys.empty()) throw Error(ErrorKind::kUsage, fmt::format("key file {}: holds no key", path));
  return trusted;
}

bool TrustedKeys::contains(const PublicKey& key) const { return std::find(keys.begin(), keys.end(), key) != keys.end(); }

std::string public_key_text(const PublicKey& key) { return fmt::format("{}{}\n", kPublicPrefix, key.hex()); }

}  // namespace sj
