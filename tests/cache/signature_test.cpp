#include "cache/signature.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "jit/base/file.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::signature_test {
namespace {

using test::LogCapture;
using test::TempFolder;
using test::throws_error;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

template <size_t n>
std::string hex_of(const std::array<std::byte, n>& bytes) {
  std::string text;
  char digits[3];
  for (const std::byte b : bytes) {
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(b));
    text += digits;
  }
  return text;
}

// RFC 8032, section 7.1, test 2.
constexpr std::string_view kRfcSeed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
constexpr std::string_view kRfcPublic = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
constexpr std::string_view kRfcSignature =
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

SigningKey rfc_key(const TempFolder& folder) {
  atomic_write(folder / "rfc.key", "sparkjit-secret-ed25519 " + std::string(kRfcSeed) + "\n");
  return SigningKey::from_file(folder / "rfc.key");
}

TEST(Signature, IsEd25519AsTheRfcHasIt) {
  const TempFolder folder;
  const SigningKey key = rfc_key(folder);
  EXPECT_EQ(key.public_key().hex(), kRfcPublic);
  const Signature signature = key.sign(bytes_of("\x72"));
  EXPECT_EQ(hex_of(signature), kRfcSignature);
  EXPECT_TRUE(is_signature_of(signature, bytes_of("\x72"), key.public_key()));
  EXPECT_FALSE(is_signature_of(signature, bytes_of("\x73"), key.public_key()));
  EXPECT_FALSE(is_signature_of(signature, bytes_of("\x72"), SigningKey::generate().public_key()));
}

TEST(Signature, DigestIsBlake2b256) {
  EXPECT_EQ(hex_of(secure_digest(bytes_of("abc"))), "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
  EXPECT_EQ(hex_of(secure_digest({})), "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
}

TEST(Signature, GeneratedKeysDifferAndSurviveAFile) {
  const TempFolder folder;
  const SigningKey key = SigningKey::generate();
  EXPECT_NE(key.public_key().hex(), SigningKey::generate().public_key().hex());
  atomic_write(folder / "k.key", key.text());
  EXPECT_EQ(SigningKey::from_file(folder / "k.key").public_key(), key.public_key());
  atomic_write(folder / "k.pub", "# keys of the build farm\n\n" + public_key_text(key.public_key()) + public_key_text(rfc_key(folder).public_key()));
  const TrustedKeys trusted = TrustedKeys::from_file(folder / "k.pub");
  EXPECT_TRUE(trusted.is_asked());
  EXPECT_EQ(trusted.keys.size(), 2u);
  EXPECT_TRUE(trusted.contains(key.public_key()));
  EXPECT_FALSE(trusted.contains(SigningKey::generate().public_key()));
  EXPECT_FALSE(TrustedKeys::from_file("").is_asked());
}

TEST(KeyFile, WrongOnesAreRefusedWithoutRepeatingASecret) {
  const TempFolder folder;
  const std::string secret = SigningKey::generate().text(), path = folder / "k";
  const auto trust = [&](const std::string& text) {
    atomic_write(path, text);
    return [&] { TrustedKeys::from_file(path); };
  };
  EXPECT_TRUE(throws_error(trust("# nothing\n"), ErrorKind::kUsage, path, "holds no key"));
  EXPECT_TRUE(throws_error(trust("#\nhello\n"), ErrorKind::kUsage, path, "line 2", "sparkjit-public-ed25519", "64 hex digits", "something else"));
  EXPECT_TRUE(throws_error(trust("sparkjit-public-ed25519 12\n"), ErrorKind::kUsage, "of another form"));
  EXPECT_TRUE(throws_error(trust("sparkjit-public-ed25519 " + std::string(64, 'x') + "\n"), ErrorKind::kUsage, "of another form"));
  EXPECT_TRUE(throws_error(trust(secret), ErrorKind::kUsage, "found a secret key"));
  try {
    trust(secret)();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find(secret.substr(24, 16)), std::string::npos);
  }
  atomic_write(path, public_key_text(rfc_key(folder).public_key()));
  EXPECT_TRUE(throws_error([&] { SigningKey::from_file(path); }, ErrorKind::kUsage, path, "line 1", "sparkjit-secret-ed25519", "found a public key"));
  EXPECT_TRUE(throws_error([&] { SigningKey::from_file(folder / "none"); }, ErrorKind::kIo, "none"));
  EXPECT_TRUE(throws_error([&] { TrustedKeys::from_file(folder / "none"); }, ErrorKind::kIo, "none"));
}

TEST(KeyFile, SecretThatOthersCanReadIsWarnedOf) {
  const TempFolder folder;
  const LogCapture capture;
  atomic_write(folder / "k", SigningKey::generate().text());
  SigningKey::from_file(folder / "k");
  EXPECT_EQ(capture.lines().size(), 0u);
  ASSERT_EQ(::chmod((folder / "k").c_str(), 0644), 0);
  SigningKey::from_file(folder / "k");
  EXPECT_EQ(capture.n_with("mode 0644"), 1u);
}

}  // namespace
}  // namespace sj::signature_test
