#include "cache/cubin_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>

#include "jit/base/file.h"
#include "tests/cache/fake_cubin.h"
#include "tests/support/temp_folder.h"

namespace sj::cubin_store_test {
namespace {

using test::fake_cubin;
using test::fake_key;
using test::LogCapture;
using test::TempFolder;

void expect_equal(const Cubin& a, const Cubin& b) {
  EXPECT_EQ(a.bytes, b.bytes);
  EXPECT_EQ(a.entry, b.entry);
  EXPECT_EQ(a.target, b.target);
  EXPECT_EQ(a.label, b.label);
  EXPECT_EQ(a.compiler, b.compiler);
  EXPECT_EQ(a.resources, b.resources);
  EXPECT_EQ(a.compile_us, b.compile_us);
}

std::string path_of(const std::string& dir, const std::string& key) { return dir + "/v1/" + key.substr(0, 2) + "/" + key.substr(2) + ".cubin"; }

void set_last_used(const std::string& path, int64_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

int64_t last_used(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0);
  return info.st_mtim.tv_sec;
}

TEST(Entry, RoundTrips) {
  const Cubin cubin = fake_cubin("sj_x");
  const std::optional<Cubin> back = decode_entry(encode_entry(fake_key(1), cubin), fake_key(1), nullptr);
  ASSERT_TRUE(back);
  expect_equal(*back, cubin);
}

TEST(Entry, EqualCubinsGiveEqualBytes) { EXPECT_EQ(encode_entry(fake_key(1), fake_cubin("a")), encode_entry(fake_key(1), fake_cubin("a"))); }

TEST(Entry, EveryTruncationIsRefused) {
  const std::vector<std::byte> file = encode_entry(fake_key(1), fake_cubin("sj_x"));
  for (size_t n = 0; n < file.size(); ++n) {
    std::string why;
    ASSERT_FALSE(decode_entry(std::span(file).first(n), fake_key(1), &why)) << n;
    ASSERT_FALSE(why.empty());
  }
}

TEST(Entry, EveryBitFlipIsRefused) {
  std::vector<std::byte> file = encode_entry(fake_key(1), fake_cubin("sj_x"));
  for (size_t i = 0; i < file.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      file[i] ^= static_cast<std::byte>(1 << bit);
      ASSERT_FALSE(decode_entry(file, fake_key(1), nullptr)) << "byte " << i << " bit " << bit;
      file[i] ^= static_cast<std::byte>(1 << bit);
    }
  EXPECT_TRUE(decode_entry(file, fake_key(1), nullptr));
}

TEST(Entry, AppendedByteIsRefused) {
  std::vector<std::byte> file = encode_entry(fake_key(1), fake_cubin("sj_x"));
  file.push_back(std::byte{0});
  EXPECT_FALSE(decode_entry(file, fake_key(1), nullptr));
}

TEST(Entry, OfAnotherKeyIsRefused) {
  std::string why;
  EXPECT_FALSE(decode_entry(encode_entry(fake_key(1), fake_cubin("sj_x")), fake_key(2), &why));
  EXPECT_EQ(why, "key differs from the file name");
}

TEST(Entry, CodeForAnotherCardIsRefused) {
  Cubin cubin = fake_cubin("sj_x", 1000, 120);
  cubin.target = "sm_90";
  std::string why;
  EXPECT_FALSE(decode_entry(encode_entry(fake_key(1), cubin), fake_key(1), &why));
  EXPECT_EQ(why, "code is for sm_120, meta says sm_90");
}

TEST(CubinStore, FindsWhatWasInsertedAlsoByAnotherStore) {
  const TempFolder folder;
  CubinStore store(folder / "cache");
  EXPECT_FALSE(store.find(fake_key(1)));
  EXPECT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  CubinStore other(folder / "cache");
  const std::optional<Cubin> found = other.find(fake_key(1));
  ASSERT_TRUE(found);
  expect_equal(*found, fake_cubin("sj_x"));
  EXPECT_FALSE(other.find(fake_key(2)));
}

TEST(CubinStore, FoldersAndFilesAreTheOwnersAlone) {
  const TempFolder folder;
  CubinStore store(folder / "deep/er/cache");
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  for (const auto& item : std::filesystem::recursive_directory_iterator(folder / "deep/er/cache")) {
    struct stat info = {};
    ASSERT_EQ(::stat(item.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 077, 0u) << item.path();
  }
}

TEST(CubinStore, DamagedEntryIsAMissAndGoesToQuarantine) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  const std::string path = path_of(folder.path(), fake_key(1));
  std::string text = read_file(path);
  text[text.size() / 2] = static_cast<char>(text[text.size() / 2] ^ 1);
  atomic_write(path, text);
  EXPECT_FALSE(store.find(fake_key(1)));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(store.stats().n_quarantined, 1u);
  EXPECT_EQ(capture.n_with("content checksum differs"), 1u);
  EXPECT_EQ(capture.n_with(path), 1u);
  EXPECT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  EXPECT_TRUE(store.find(fake_key(1)));
}

TEST(CubinStore, EmptyAndForeignFilesAreMisses) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  for (const std::string& content : {std::string(), std::string("\x7f" "ELF"), std::string(5000, 'x')}) {
    atomic_write(path_of(folder.path(), fake_key(1)), content);
    EXPECT_FALSE(store.find(fake_key(1)));
  }
  // A folder in the entry's place.
  std::filesystem::create_directory(path_of(folder.path(), fake_key(1)));
  EXPECT_FALSE(store.find(fake_key(1)));
}

TEST(CubinStore, SymbolicLinkInAnEntrysPlaceIsNotFollowed) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder / "cache");
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  const std::string path = path_of(folder / "cache", fake_key(1));
  std::filesystem::rename(path, folder / "elsewhere");
  std::filesystem::create_symlink(folder / "elsewhere", path);
  EXPECT_FALSE(store.find(fake_key(1)));
  EXPECT_EQ(capture.n_with("is a symbolic link"), 1u);
}

TEST(CubinStore, EntryThatOthersCanWriteIsNotUsed) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  ASSERT_EQ(::chmod(path_of(folder.path(), fake_key(1)).c_str(), 0666), 0);
  EXPECT_FALSE(store.find(fake_key(1)));
  EXPECT_EQ(capture.n_with("can be written by others (mode 0666)"), 1u);
}

TEST(CubinStore, RefusedByTheDriverLeavesUse) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  store.quarantine(fake_key(1), "the driver refused it");
  EXPECT_FALSE(store.find(fake_key(1)));
  EXPECT_EQ(capture.n_with("the driver refused it"), 1u);
}

TEST(CubinStore, DatesDoNotDecideValidity) {
  const TempFolder folder;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  const int64_t now = std::time(nullptr), fifty_years = int64_t{50} * 365 * 24 * 3600;
  for (const int64_t stamp : {now - fifty_years, now + fifty_years, int64_t{0}}) {
    set_last_used(path_of(folder.path(), fake_key(1)), stamp);
    EXPECT_TRUE(store.find(fake_key(1))) << stamp;
    EXPECT_LE(std::abs(last_used(path_of(folder.path(), fake_key(1))) - now), 5) << "use is stamped anew";
  }
}

TEST(CubinStore, UseIsStampedAtMostHourly) {
  const TempFolder folder;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  const int64_t half_an_hour_ago = std::time(nullptr) - 1800;
  set_last_used(path_of(folder.path(), fake_key(1)), half_an_hour_ago);
  EXPECT_TRUE(store.find(fake_key(1)));
  EXPECT_EQ(last_used(path_of(folder.path(), fake_key(1))), half_an_hour_ago);
}

TEST(CubinStore, EvictsTheLeastRecentlyUsedBeyondTheCap) {
  const TempFolder folder;
  const uint64_t entry_bytes = encode_entry(fake_key(1), fake_cubin("sj_x")).size();
  CubinStore store(folder.path(), 10 * entry_bytes);
  const int64_t now = std::time(nullptr);
  for (uint32_t i = 1; i <= 10; ++i) {
    ASSERT_TRUE(store.insert(fake_key(i), fake_cubin("sj_x")));
    set_last_used(path_of(folder.path(), fake_key(i)), now - 10'000 + i);
  }
  EXPECT_EQ(store.stats().n_entries, 10u);
  ASSERT_TRUE(store.insert(fake_key(11), fake_cubin("sj_x")));
  EXPECT_EQ(store.stats().n_entries, 9u);  // down to nine tenths, so that not every insert evicts
  EXPECT_FALSE(std::filesystem::exists(path_of(folder.path(), fake_key(1))));
  EXPECT_FALSE(std::filesystem::exists(path_of(folder.path(), fake_key(2))));
  EXPECT_TRUE(std::filesystem::exists(path_of(folder.path(), fake_key(3))));
  EXPECT_TRUE(std::filesystem::exists(path_of(folder.path(), fake_key(11))));
}

TEST(CubinStore, YoungEntriesAreNotEvicted) {
  const TempFolder folder;
  CubinStore store(folder.path(), 1);
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  ASSERT_TRUE(store.insert(fake_key(2), fake_cubin("sj_x")));
  EXPECT_EQ(store.stats().n_entries, 2u);
}

TEST(CubinStore, StampInTheFutureDoesNotProtect) {
  const TempFolder folder;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  set_last_used(path_of(folder.path(), fake_key(1)), std::time(nullptr) + 1'000'000);
  EXPECT_EQ(store.collect_garbage(0), 1u);
}

TEST(CubinStore, SweepsOldTemporaryFilesAndOldQuarantine) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder.path());
  ASSERT_TRUE(store.insert(fake_key(1), fake_cubin("sj_x")));
  ASSERT_TRUE(store.insert(fake_key(2), fake_cubin("sj_x")));
  store.quarantine(fake_key(2), "test");
  const std::string old_temporary = path_of(folder.path(), fake_key(1)) + ".tmp-1-1", new_temporary = path_of(folder.path(), fake_key(1)) + ".tmp-1-2";
  atomic_write(old_temporary, "x");
  atomic_write(new_temporary, "x");
  set_last_used(old_temporary, std::time(nullptr) - 2 * 3600);
  for (const auto& item : std::filesystem::directory_iterator(folder / "v1/quarantine")) set_last_used(item.path().string(), 1);
  EXPECT_EQ(store.collect_garbage(CubinStore::kDefaultMaxBytes), 2u);
  EXPECT_FALSE(std::filesystem::exists(old_temporary));
  EXPECT_TRUE(std::filesystem::exists(new_temporary));
  EXPECT_TRUE(store.find(fake_key(1)));
}

TEST(CubinStore, ListsVerifiesAndClears) {
  const TempFolder folder;
  const LogCapture capture;
  CubinStore store(folder.path());
  for (uint32_t i = 1; i <= 3; ++i) ASSERT_TRUE(store.insert(fake_key(i), fake_cubin("sj_" + std::to_string(i))));
  const int64_t now = std::time(nullptr);
  for (uint32_t i = 1; i <= 3; ++i) set_last_used(path_of(folder.path(), fake_key(i)), now - 100 * i);
  const std::vector<StoreEntryInfo> entries = store.entries();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].key, fake_key(1));
  EXPECT_EQ(entries[2].label, "sj_3[kRows=1]");
  EXPECT_EQ(entries[2].resources.registers, 32u);
  EXPECT_EQ(entries[2].compiler, "nvrtc 13.0");
  EXPECT_EQ(store.stats().total_bytes, 3 * entries[0].file_bytes);

  atomic_write(path_of(folder.path(), fake_key(2)), "damaged");
  const VerifyReport report = store.verify();
  EXPECT_EQ(report.n_good, 2u);
  ASSERT_EQ(report.damaged.size(), 1u);
  EXPECT_NE(report.damaged[0].find("7 bytes are less than a header"), std::string::npos) << report.damaged[0];
  EXPECT_EQ(store.verify().damaged.size(), 0u);
  EXPECT_EQ(store.clear(), 3u);  // two entries and one in quarantine
  EXPECT_EQ(store.stats().n_entries, 0u);
}

TEST(CubinStore, RemembersCompilersLatestFirst) {
  const TempFolder folder;
  CubinStore store(folder.path());
  EXPECT_TRUE(store.known_compilers().empty());
  store.remember_compiler({12080, "a/b"});
  store.remember_compiler({13000, "c/d"});
  store.remember_compiler({12080, "a/b"});
  EXPECT_EQ(CubinStore(folder.path()).known_compilers(), (std::vector<CompilerId>{{12080, "a/b"}, {13000, "c/d"}}));
  atomic_write(folder / "v1/compilers", "nonsense\n13000 c/d\n77\n");
  EXPECT_EQ(store.known_compilers(), (std::vector<CompilerId>{{13000, "c/d"}}));
}

}  // namespace
}  // namespace sj::cubin_store_test
