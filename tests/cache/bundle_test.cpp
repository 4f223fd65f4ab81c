#include "cache/bundle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "cache/cubin_store.h"
#include "jit/base/file.h"
#include "tests/cache/bundle_bytes.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::bundle_test {
namespace {

using namespace bundle_format;
using test::fake_cubin;
using test::fake_key;
using test::LogCapture;
using test::reseal;
using test::small_content;
using test::TempFolder;
using test::throws_error;
using File = std::vector<std::byte>;

TrustedKeys trust(const SigningKey& key) { return {.path = "farm.pub", .keys = {key.public_key()}}; }

/// What the file gives for each of the three keys; an Error counts as nothing. `n_refused`: opening failed.
struct Reading {
  bool is_refused = false;
  std::vector<std::optional<Cubin>> cubins;
};
Reading read_all(const File& file, const TrustedKeys& trusted = {}) {
  Reading reading;
  try {
    const Bundle bundle = Bundle::from_bytes(file, "b.skb", trusted);
    for (uint32_t i = 1; i <= 3; ++i) {
      try {
        reading.cubins.push_back(bundle.find(fake_key(i)));
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kIo) << error.what();
        EXPECT_TRUE(trusted.is_asked());
        reading.cubins.emplace_back();
      }
    }
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == ErrorKind::kIo || error.kind() == ErrorKind::kUnsupported) << error.what();
    EXPECT_NE(std::string(error.what()).find("b.skb"), std::string::npos) << error.what();
    reading.is_refused = true;
  }
  return reading;
}

TEST(Bundle, GivesBackWhatWentIn) {
  const TempFolder folder;
  atomic_write(folder / "b.skb", small_content().encode(nullptr), 0644);
  const Bundle bundle = Bundle::open(folder / "b.skb");
  EXPECT_EQ(bundle.n_entries(), 3u);
  EXPECT_EQ(bundle.manifest(), test::small_manifest());
  EXPECT_FALSE(bundle.signer());
  for (uint32_t i = 1; i <= 3; ++i) {
    const Cubin want = fake_cubin("sj_" + std::to_string(i), 128);
    const std::optional<Cubin> got = bundle.find(fake_key(i));
    ASSERT_TRUE(got);
    EXPECT_EQ(got->bytes, want.bytes);
    EXPECT_EQ(got->entry, want.entry);
    EXPECT_EQ(got->target, want.target);
    EXPECT_EQ(got->label, want.label);
    EXPECT_EQ(got->resources, want.resources);
    EXPECT_EQ(got->compile_us, 0);
  }
  EXPECT_FALSE(bundle.find(fake_key(4)));
  EXPECT_FALSE(bundle.find("not a key"));
  EXPECT_FALSE(bundle.find(std::string(32, 'g')));
}

TEST(Bundle, WithoutEntriesIsFine) {
  const File file = small_content(0).encode(nullptr);
  const Bundle bundle = Bundle::from_bytes(file, "b.skb");
  EXPECT_EQ(bundle.n_entries(), 0u);
  EXPECT_FALSE(bundle.find(fake_key(1)));
}

TEST(Bundle, EqualContentGivesEqualBytes) {
  BundleContent backwards;
  backwards.manifest = test::small_manifest();
  for (uint32_t i = 3; i >= 1; --i) {
    Cubin cubin = fake_cubin("sj_" + std::to_string(i), 128);
    cubin.compile_us = i * 1000.0;   // a slower machine
    cubin.log = "warning";
    backwards.add(fake_key(i), cubin, "test");
  }
  EXPECT_EQ(backwards.encode(nullptr), small_content().encode(nullptr));
  const SigningKey key = SigningKey::generate();
  EXPECT_EQ(backwards.encode(&key), small_content().encode(&key));
}

TEST(Bundle, EveryBitThatFlipsIsNoticed) {
  const LogCapture capture;
  const File good = small_content().encode(nullptr);
  const Reading want = read_all(good);
  uint64_t n_refused = 0, n_missed = 0;
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    File file = good;
    file[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const Reading got = read_all(file);
    n_refused += got.is_refused ? 1 : 0;
    if (got.is_refused) continue;
    uint64_t n_gone = 0;
    for (size_t i = 0; i < 3; ++i) {
      if (!got.cubins[i]) ++n_gone;
      else ASSERT_EQ(got.cubins[i]->bytes, want.cubins[i]->bytes) << "bit " << bit;
    }
    ASSERT_EQ(n_gone, 1u) << "bit " << bit;   // the entry that it hit, and no other
    ++n_missed;
  }
  const size_t n_meta_bits = 8 * (good.size() - 3 * encode_entry(fake_key(1), fake_cubin("sj_1", 128)).size());
  EXPECT_NEAR(static_cast<double>(n_refused), static_cast<double>(n_meta_bits), 8 * 16);   // compile_us takes more digits here
  EXPECT_EQ(capture.n_with("is damaged"), n_missed);
}

TEST(Bundle, EveryLengthButItsOwnIsRefused) {
  const File good = small_content().encode(nullptr);
  for (size_t n = 0; n < good.size(); ++n) ASSERT_TRUE(read_all(File(good.begin(), good.begin() + static_cast<ptrdiff_t>(n))).is_refused) << n;
  File longer = good;
  longer.push_back(std::byte{0});
  EXPECT_TRUE(read_all(longer).is_refused);
}

TEST(Bundle, SaysWhatIsWrong) {
  const TempFolder folder;
  const auto open = [&](const File& file) {
    atomic_write(folder / "b.skb", file);
    return [&] { Bundle::open(folder / "b.skb"); };
  };
  const auto with = [](size_t at, auto value) {
    File file = small_content().encode(nullptr);
    put_int(std::span(file), at, value);
    reseal(file);
    return file;
  };
  EXPECT_TRUE(throws_error([&] { Bundle::open(folder / "none.skb"); }, ErrorKind::kIo, "none.skb"));
  EXPECT_TRUE(throws_error(open({}), ErrorKind::kIo, "b.skb", "is no bundle"));
  EXPECT_TRUE(throws_error(open(File(300, std::byte{'x'})), ErrorKind::kIo, "is no bundle", "SJBUNDLE"));
  EXPECT_TRUE(throws_error(open(with(kVersionAt, uint32_t{2})), ErrorKind::kUnsupported, "has format 2", "reads 1"));
  EXPECT_TRUE(throws_error(open(with(kHeaderBytesAt, uint32_t{256})), ErrorKind::kIo, "wrong header size"));
  EXPECT_TRUE(throws_error(open(with(kMetaHashAt + 20, uint32_t{1})), ErrorKind::kIo, "reserved bytes"));
  EXPECT_TRUE(throws_error(open(with(kFileBytesAt, UINT64_MAX)), ErrorKind::kIo, "header says 18446744073709551615"));
  EXPECT_TRUE(throws_error(open(with(kManifestBytesAt, UINT64_MAX)), ErrorKind::kIo, "a manifest of 18446744073709551615 bytes"));
  EXPECT_TRUE(throws_error(open(with(kEntriesAt, UINT64_MAX)), ErrorKind::kIo, "an index of 18446744073709551615 entries"));
  EXPECT_TRUE(throws_error(open(with(kEntriesAt, (UINT64_MAX / kIndexEntryBytes) + 2)), ErrorKind::kIo, "an index of"));   // times 64 wraps
  EXPECT_TRUE(throws_error(open(with(kEntriesBytesAt, uint64_t{7})), ErrorKind::kIo, "the header says 7"));
}

TEST(Bundle, IndexThatLiesIsRefused) {
  const File good = small_content().encode(nullptr);
  const size_t index_at = kManifestAt + get_int<uint64_t>(good, kManifestBytesAt);
  const auto with = [&](size_t at, auto value) {
    File file = good;
    put_int(std::span(file), index_at + at, value);
    reseal(file);
    return [file] { Bundle::from_bytes(file, "b.skb"); };
  };
  EXPECT_TRUE(throws_error(with(kIndexOffsetAt, uint64_t{0}), ErrorKind::kIo, "entry 0 lies at 0"));
  EXPECT_TRUE(throws_error(with(kIndexBytesAt, UINT64_MAX), ErrorKind::kIo, "entry 0 lies at"));
  EXPECT_TRUE(throws_error(with(kIndexEntryBytes + kIndexOffsetAt, uint64_t{1} << 40), ErrorKind::kIo, "entry 1 lies at"));
  EXPECT_TRUE(throws_error(with(kIndexBytesAt, uint64_t{1}), ErrorKind::kIo, "entry 1 lies at"));
  EXPECT_TRUE(throws_error(with(2 * kIndexEntryBytes + kIndexBytesAt, uint64_t{1}), ErrorKind::kIo, "the entries end at"));
  EXPECT_TRUE(throws_error(with(0, UINT64_MAX), ErrorKind::kIo, "entry 1 is not in order"));
  File twice = good;   // two entries of one key
  std::memcpy(twice.data() + index_at + kIndexEntryBytes, twice.data() + index_at, kIndexKeyBytes);
  reseal(twice);
  EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(twice, "b.skb"); }, ErrorKind::kIo, "entry 1 is not in order"));
  File no_json = good;
  no_json[kManifestAt] = std::byte{'x'};
  reseal(no_json);
  EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(no_json, "b.skb"); }, ErrorKind::kIo, "manifest can't be read"));
}

TEST(Bundle, EntryUnderAnothersKeyIsNotUsed) {
  const LogCapture capture;
  File file = small_content().encode(nullptr);
  const size_t index_at = kManifestAt + get_int<uint64_t>(file, kManifestBytesAt);
  file[index_at + kIndexKeyBytes - 1] ^= std::byte{1};
  reseal(file);
  const Bundle bundle = Bundle::from_bytes(file, "b.skb");
  EXPECT_FALSE(bundle.find(bundle.entry_key(0)));
  EXPECT_EQ(capture.n_with("key differs"), 1u);
}

TEST(SignedBundle, OnlyThoseOfATrustedKeyAreOpened) {
  const SigningKey farm = SigningKey::generate(), other = SigningKey::generate();
  const File by_farm = small_content().encode(&farm), by_other = small_content().encode(&other), by_nobody = small_content().encode(nullptr);
  EXPECT_EQ(Bundle::from_bytes(by_farm, "b.skb", trust(farm)).signer(), farm.public_key());
  EXPECT_EQ(Bundle::from_bytes(by_farm, "b.skb").signer(), farm.public_key());
  const TrustedKeys both{.path = "farm.pub", .keys = {other.public_key(), farm.public_key()}};
  EXPECT_EQ(Bundle::from_bytes(by_farm, "b.skb", both).signer(), farm.public_key());
  EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(by_nobody, "b.skb", trust(farm)); }, ErrorKind::kIo, "b.skb is refused", "not signed", "farm.pub"));
  EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(by_other, "b.skb", trust(farm)); }, ErrorKind::kIo, "b.skb is refused",
                           other.public_key().hex(), "not in farm.pub"));
}

TEST(SignedBundle, WhatWasAlteredAndGivenFittingChecksumsIsRefused) {
  const SigningKey farm = SigningKey::generate(), thief = SigningKey::generate();
  const File good = small_content().encode(&farm);
  const size_t index_at = kManifestAt + get_int<uint64_t>(good, kManifestBytesAt);
  // Anything of header, manifest and index: also what no rule but the signature finds.
  for (const size_t at : {kManifestAt + 12, index_at + kIndexDigestAt + 3, index_at + 2 * kIndexEntryBytes + kIndexDigestAt}) {
    File file = good;
    file[at] ^= std::byte{1};
    reseal(file);
    EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(file, "b.skb", trust(farm)); }, ErrorKind::kIo, "is refused", "altered after signing")) << at;
    EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(file, "b.skb"); }, ErrorKind::kIo, "altered after signing")) << "also when nobody asks";
  }
  // Another's bundle under the trusted key's name.
  File forged = small_content(2).encode(&thief);
  std::memcpy(forged.data() + kSealAt, good.data() + kSealAt, 96);
  reseal(forged);
  EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(forged, "b.skb", trust(farm)); }, ErrorKind::kIo, "altered after signing"));
  // The signature taken away.
  File stripped = good;
  std::fill_n(stripped.begin() + kSealAt, 96, std::byte{0});
  reseal(stripped);
  EXPECT_TRUE(throws_error([&] { Bundle::from_bytes(stripped, "b.skb", trust(farm)); }, ErrorKind::kIo, "not signed"));
}

TEST(SignedBundle, AlteredEntryIsAnErrorWhereTrustIsAskedFor) {
  const LogCapture capture;
  const SigningKey farm = SigningKey::generate();
  File file = small_content().encode(&farm);
  const Bundle good = Bundle::from_bytes(file, "b.skb", trust(farm));
  // Other code of the same length with checksums of its own.
  Cubin evil = *good.find(good.entry_key(0));
  evil.bytes.back() ^= std::byte{0xff};
  evil.compile_us = 0;
  const std::vector<std::byte> entry = encode_entry(good.entry_key(0), evil);
  const size_t at = static_cast<size_t>(good.entry_bytes(0).data() - file.data());
  ASSERT_EQ(entry.size(), good.entry_bytes(0).size());
  std::copy(entry.begin(), entry.end(), file.begin() + static_cast<ptrdiff_t>(at));
  const Bundle bundle = Bundle::from_bytes(file, "b.skb", trust(farm));
  EXPECT_TRUE(throws_error([&] { bundle.find(bundle.entry_key(0)); }, ErrorKind::kIo, "b.skb is refused", "was altered", "digest"));
  EXPECT_TRUE(bundle.find(bundle.entry_key(1)));
  EXPECT_FALSE(Bundle::from_bytes(file, "b.skb").find(bundle.entry_key(0)));
  EXPECT_EQ(capture.n_with("not the one that was signed"), 1u);
}

TEST(SignedBundle, EveryByteThatChangesIsNoticed) {
  const SigningKey farm = SigningKey::generate();
  const File good = small_content().encode(&farm);
  const Reading want = read_all(good, trust(farm));
  std::mt19937 random(3);
  for (size_t at = 0; at < good.size(); ++at) {
    File file = good;
    file[at] ^= static_cast<std::byte>(1 << random() % 8);
    const Reading got = read_all(file, trust(farm));
    if (got.is_refused) continue;
    ASSERT_EQ(std::count(got.cubins.begin(), got.cubins.end(), std::nullopt), 1) << at;
    for (size_t i = 0; i < 3; ++i)
      if (got.cubins[i]) { ASSERT_EQ(got.cubins[i]->bytes, want.cubins[i]->bytes) << at; }
  }
}

TEST(BundleContent, MergesWhatAgrees) {
  const File first_file = small_content(2).encode(nullptr), second_file = [] {
    BundleContent content = small_content(3);
    content.manifest.models[0].model = "other";
    content.manifest.compilers.push_back({12090, "older"});
    return content.encode(nullptr);
  }();
  const Bundle first = Bundle::from_bytes(first_file, "a.skb"), second = Bundle::from_bytes(second_file, "b.skb");
  const auto merged = [&](std::initializer_list<const Bundle*> bundles) {
    BundleContent content;
    for (const Bundle* bundle : bundles) content.add(*bundle);
    return content.encode(nullptr);
  };
  const File file = merged({&first, &second});
  const Bundle both = Bundle::from_bytes(file, "ab.skb");
  EXPECT_EQ(both.n_entries(), 3u);
  EXPECT_EQ(both.manifest().models.size(), 2u);
  EXPECT_EQ(both.manifest().compilers, (std::vector<CompilerId>{{13000, "abc/def"}, {12090, "older"}}));
  EXPECT_EQ(merged({&second, &first}), file) << "the order does not matter";
  EXPECT_EQ(merged({&first, &second, &both}), file);
  EXPECT_EQ(merged({&first}), first_file);
}

TEST(BundleContent, SameKeyWithOtherCodeIsAConflictThatNamesBoth) {
  BundleContent other;
  other.manifest = test::small_manifest();
  other.add(fake_key(2), fake_cubin("sj_2", 129), "test");
  const File first_file = small_content().encode(nullptr), second_file = other.encode(nullptr);
  const Bundle first = Bundle::from_bytes(first_file, "a.skb"), second = Bundle::from_bytes(second_file, "b.skb");
  BundleContent content;
  content.add(first);
  EXPECT_TRUE(throws_error([&] { content.add(second); }, ErrorKind::kIo, "sj_2[kRows=1]@sm_90", fake_key(2), "in b.skb than in a.skb"));
}

TEST(BundleContent, DamagedEntryIsNotMerged) {
  File file = small_content().encode(nullptr);
  file.back() ^= std::byte{1};
  const Bundle bundle = Bundle::from_bytes(file, "a.skb");
  BundleContent content;
  EXPECT_TRUE(throws_error([&] { content.add(bundle); }, ErrorKind::kIo, "a.skb", "is damaged", "checksum"));
}

}  // namespace
}  // namespace sj::bundle_test
