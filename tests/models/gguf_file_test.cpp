#include "models/gguf_file.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "jit/base/error.h"
#include "models/gguf_parse.h"
#include "tests/models/gguf_bad_files.h"
#include "tests/support/gguf_writer.h"

namespace sj::gguf_file_test {
namespace {

using namespace sj::test;
namespace fs = std::filesystem;

constexpr uint32_t kF32 = 0;

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

template <class Call>
Error error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorKind::kInternal, "nothing was thrown");
}

Error error_of_bytes(const std::string& bytes) {
  return error_of([&] { gguf_from_memory(as_bytes(bytes), "bad.gguf"); });
}

/// Two layers' worth of keys of every type and three tensors.
GgufWriter sample_writer() {
  GgufWriter w;
  w.put_string("general.architecture", "llama");
  w.put_u8("k.u8", 200);
  w.put_u16("k.u16", 60000);
  w.put_u32("k.u32", 4000000000u);
  w.put_i32("k.i32", -7);
  w.put_u64("k.u64", uint64_t{1} << 40);
  w.put_f32("k.f32", 1e-6f);
  w.put_bool("k.bool", true);
  w.put_strings("k.strings", std::vector<std::string>{"one", "", "three"});
  w.put_u32s("k.u32s", std::vector<uint32_t>{1, 2, 3});
  w.put_i32s("k.i32s", std::vector<int32_t>{-1, 0, 7});
  w.put_f32s("k.f32s", std::vector<float>{0.5f, -2.0f});
  w.add_tensor("token_embd.weight", DType::kQ8_0, {10, 64});
  w.add_tensor("norm.weight", DType::kF32, {3});
  w.add_tensor("experts.weight", DType::kQ4_K, {4, 2, 256});
  return w;
}

TEST(OpenGguf, ReadsWhatTheWriterWrote) {
  const GgufWriter writer = sample_writer();
  const std::string bytes = gguf_bytes(writer, [](const TensorInfo& t) { return std::string(t.n_bytes, static_cast<char>('a' + t.name.size() % 20)); });
  const TempDir dir;
  const std::string path = dir.write("sample.gguf", bytes);
  const GgufFile file = open_gguf(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.size_bytes(), bytes.size());
  EXPECT_EQ(file.part_paths(), std::vector<std::string>{path});
  ASSERT_EQ(file.metadata().size(), 12u);
  EXPECT_EQ(file.metadata()[0].first, "general.architecture");
  ASSERT_EQ(file.tensors().size(), 3u);
  const TensorInfo& experts = file.require_tensor("experts.weight");
  EXPECT_EQ(experts.shape, (std::vector<uint64_t>{4, 2, 256}));
  EXPECT_EQ(experts.dtype, DType::kQ4_K);
  EXPECT_EQ(experts.n_elems(), 2048u);
  EXPECT_EQ(experts.n_rows(), 8u);
  EXPECT_EQ(experts.row_elems(), 256u);
  EXPECT_EQ(experts.n_bytes, 8u * 144);
  EXPECT_EQ(experts.file_offset % 32, 0u);
  ASSERT_EQ(file.bytes(experts).size(), experts.n_bytes);
  EXPECT_EQ(std::to_integer<char>(file.bytes(experts)[0]), 'a' + 14);
  EXPECT_EQ(file.find_tensor("nothing"), nullptr);
  char first = 0;
  ASSERT_EQ(::pread(file.fd(0), &first, 1, static_cast<off_t>(experts.file_offset)), 1);
  EXPECT_EQ(first, 'a' + 14);
}

TEST(OpenGguf, AcceptsVersion2AndFilesWithoutTensors) {
  const std::string bytes = gguf_head(0, 1, 2) + gguf_key("general.architecture", kGgufString, gguf_text("none"));
  const GgufFile file = gguf_from_memory(as_bytes(bytes), "vocab.gguf");
  EXPECT_TRUE(file.tensors().empty());
  EXPECT_EQ(file.require_string("general.architecture"), "none");
}

TEST(OpenGguf, AcceptsAMissingPaddingOfTheLastTensorAndTrailingBytes) {
  const std::string head = padded(gguf_head(1, 0) + gguf_tensor("a", {3}, kF32, 0));
  for (const size_t n : {12, 13, 32, 500}) {
    const std::string bytes = head + std::string(n, 'x');
    EXPECT_EQ(gguf_from_memory(as_bytes(bytes), "f").tensors().size(), 1u) << n;
  }
}

TEST(OpenGguf, AcceptsTensorsInAnyOrderAndAnotherAlignment) {
  const std::string key = gguf_key("general.alignment", kGgufU32, le(64u));
  const std::string head = padded(gguf_head(2, 1) + key + gguf_tensor("a", {4}, kF32, 64) + gguf_tensor("b", {16}, kF32, 0), 64);
  const std::string bytes = head + std::string(80, 'x');
  const GgufFile file = gguf_from_memory(as_bytes(bytes), "f");
  EXPECT_EQ(file.require_tensor("a").file_offset, head.size() + 64);
  EXPECT_EQ(file.require_tensor("b").file_offset, head.size());
}

TEST(OpenGguf, RefusesEveryBrokenFileNamingFileOffsetAndField) {
  const std::vector<BadGguf> cases = bad_gguf_files();
  EXPECT_GE(cases.size(), 150u);
  std::set<std::string> names;
  for (const BadGguf& bad : cases) {
    SCOPED_TRACE(bad.name);
    EXPECT_TRUE(names.insert(bad.name).second) << "two cases of one name";
    const Error error = error_of_bytes(bad.bytes);
    const std::string text = error.what();
    EXPECT_EQ(kind_name(error.kind()), kind_name(bad.kind));
    EXPECT_NE(text.find(bad.message), std::string::npos) << text;
    EXPECT_NE(text.find(fmt::format("[field {}; offset {}; file bad.gguf]", bad.field, bad.offset)), std::string::npos) << text;
  }
}

TEST(OpenGguf, RefusesEveryPrefixOfAFile) {
  const std::string bytes = gguf_bytes(sample_writer());
  for (size_t n = 0; n < bytes.size(); ++n) {
    const Error error = error_of([&] { gguf_from_memory(as_bytes(bytes).first(n), "cut.gguf"); });
    ASSERT_EQ(error.kind(), ErrorKind::kBadModel) << n;
    const std::string text = error.what();
    ASSERT_NE(text.find("file cut.gguf"), std::string::npos) << text;
    ASSERT_NE(text.find("offset "), std::string::npos) << text;
    ASSERT_NE(text.find("field "), std::string::npos) << text;
  }
  EXPECT_NO_THROW(gguf_from_memory(as_bytes(bytes), "whole.gguf"));
}

TEST(OpenGguf, SurvivesEverySingleBitFlipOfTheHeader) {
  const GgufWriter writer = sample_writer();
  std::string bytes = gguf_bytes(writer);
  size_t n_refused = 0;
  for (size_t bit = 0; bit < 8 * writer.header().size(); ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << (bit % 8));
    try {
      const GgufFile file = gguf_from_memory(as_bytes(bytes), "flipped.gguf");
      for (const TensorInfo& tensor : file.tensors()) ASSERT_EQ(file.bytes(tensor).size(), tensor.n_bytes);
    } catch (const Error& error) {
      ++n_refused;
      ASSERT_TRUE(error.kind() == ErrorKind::kBadModel || error.kind() == ErrorKind::kUnsupported) << error.what();
    }
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << (bit % 8));
  }
  EXPECT_GT(n_refused, writer.header().size());   // most of it is structure
}

// ---- what the path may be ----

TEST(OpenGguf, NamesAFileThatIsMissing) {
  const TempDir dir;
  const std::string path = (dir.path() / "none.gguf").string();
  const Error error = error_of([&] { open_gguf(path); });
  EXPECT_EQ(error.kind(), ErrorKind::kIo);
  EXPECT_EQ(error.message(), path + ": can't open the file: No such file or directory");
}

TEST(OpenGguf, RefusesDirectoriesFifosAndDevicesAtOnce) {
  const TempDir dir;
  const std::string fifo = (dir.path() / "fifo.gguf").string();
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {dir.path().string(), "a directory"}, {fifo, "a fifo"}, {"/dev/zero", "a character device"}};
  for (const auto& [path, kind] : cases) {
    const Error error = error_of([&, path = path] { open_gguf(path); });
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    EXPECT_EQ(error.message(), path + ": expected a regular file, found " + kind);
  }
}

TEST(OpenGguf, SaysWhyAFileIsUnreadable) {
  const TempDir dir;
  const std::string path = dir.write("secret.gguf", gguf_bytes(sample_writer()));
  fs::permissions(path, fs::perms::none);
  const uid_t user = ::geteuid();
  if (user == 0 && ::seteuid(65534) != 0) GTEST_SKIP() << "root reads everything and can't become somebody else here";
  const Error error = error_of([&] { open_gguf(path); });
  if (user == 0) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_EQ(error.kind(), ErrorKind::kIo);
  EXPECT_EQ(error.message(), path + ": can't open the file: Permission denied");
}

TEST(OpenGguf, RefusesAnEmptyFile) {
  const TempDir dir;
  const std::string path = dir.write("empty.gguf", "");
  const Error error = error_of([&] { open_gguf(path); });
  EXPECT_EQ(error.kind(), ErrorKind::kBadModel);
  EXPECT_NE(std::string(error.what()).find("not a GGUF file: expected 47 47 55 46 (\"GGUF\"), found nothing in a file of 0 bytes"), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("file " + path), std::string::npos);
}

TEST(GgufFile, NoticesThatTheFileChangedUnderIt) {
  const TempDir dir;
  const std::string bytes = gguf_bytes(sample_writer());
  const std::string path = dir.write("m.gguf", bytes);
  const auto text_after = [&](const auto& change) {
    const GgufFile file = open_gguf(path);
    EXPECT_NO_THROW(file.require_unchanged());
    change();
    const Error error = error_of([&] { file.require_unchanged(); });
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    return error.message();
  };
  EXPECT_EQ(text_after([&] { fs::resize_file(path, bytes.size() + 1); }),
            fmt::format("{}: the file's size changed from {} to {} bytes while it was in use", path, bytes.size(), bytes.size() + 1));
  EXPECT_EQ(text_after([&] { fs::rename(dir.write("other.gguf", bytes), path); }), path + ": the file was replaced by another one while it was in use");
  EXPECT_EQ(text_after([&] { fs::last_write_time(path, fs::file_time_type::clock::now() + std::chrono::hours(1)); }), path + ": the file was written to while it was in use");
  EXPECT_EQ(text_after([&] { fs::remove(path); }), path + ": the file vanished while it was in use: No such file or directory");
}

// ---- typed getters ----

class GettersTest : public testing::Test {
 protected:
  std::string bytes_ = gguf_bytes(sample_writer());
  GgufFile file_ = gguf_from_memory(as_bytes(bytes_), "m.gguf");
};

TEST_F(GettersTest, WidenIntegersAndFallBackWhenAbsent) {
  EXPECT_EQ(file_.require_u32("k.u8"), 200u);
  EXPECT_EQ(file_.require_u32("k.u16"), 60000u);
  EXPECT_EQ(file_.require_u32("k.u32"), 4000000000u);
  EXPECT_EQ(file_.get_u32("absent", 5), 5u);
  EXPECT_EQ(file_.require_f32("k.f32"), 1e-6f);
  EXPECT_EQ(file_.get_f32("absent", 0.25f), 0.25f);
  EXPECT_TRUE(file_.get_bool("k.bool", false));
  EXPECT_TRUE(file_.get_bool("absent", true));
  EXPECT_EQ(file_.get_string("absent", "x"), "x");
  EXPECT_EQ(file_.require_strings("k.strings").size(), 3u);
  EXPECT_EQ(file_.require_strings("k.strings")[2], "three");
  EXPECT_EQ(file_.get_u32s("k.u32s", 3, 0), (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(file_.get_u32s("k.u8", 2, 0), (std::vector<uint32_t>{200, 200}));
  EXPECT_EQ(file_.get_u32s("k.bool", 2, 0), (std::vector<uint32_t>{1, 1}));
  EXPECT_EQ(file_.get_u32s("absent", 2, 9), (std::vector<uint32_t>{9, 9}));
  EXPECT_EQ(file_.get_i32s("k.i32s"), (std::vector<int32_t>{-1, 0, 7}));
  EXPECT_EQ(file_.get_i32s("k.u32s"), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(file_.get_f32s("k.f32s"), (std::vector<float>{0.5f, -2.0f}));
  EXPECT_TRUE(file_.get_f32s("absent").empty());
  EXPECT_EQ(file_.find_array("k.f32s")->count, 2u);
  EXPECT_EQ(file_.find_array("k.u8"), nullptr);
}

TEST_F(GettersTest, RefuseOtherTypesNamingKeyExpectedFoundAndOffset) {
  const auto text = [&](const auto& call) {
    const Error error = error_of(call);
    EXPECT_EQ(error.kind(), ErrorKind::kBadModel);
    EXPECT_NE(error.where().find("file m.gguf"), std::string::npos);
    return error.message();
  };
  EXPECT_EQ(text([&] { file_.require_u32("k.i32"); }), "metadata key \"k.i32\": expected an integer from 0 to 4294967295, found integer -7");
  EXPECT_EQ(text([&] { file_.get_u32("k.u64", 0); }), "metadata key \"k.u64\": expected an integer from 0 to 4294967295, found integer 1099511627776");
  EXPECT_EQ(text([&] { file_.require_u32("k.bool"); }), "metadata key \"k.bool\": expected an integer from 0 to 4294967295, found bool true");
  EXPECT_EQ(text([&] { file_.require_u32("k.f32s"); }), "metadata key \"k.f32s\": expected an integer from 0 to 4294967295, found array of 2 f32");
  EXPECT_EQ(text([&] { file_.require_f32("k.u8"); }), "metadata key \"k.u8\": expected a finite f32, found integer 200");
  EXPECT_EQ(text([&] { file_.get_bool("k.u8", false); }), "metadata key \"k.u8\": expected a bool, found integer 200");
  EXPECT_EQ(text([&] { file_.require_string("k.u8"); }), "metadata key \"k.u8\": expected a string, found integer 200");
  EXPECT_EQ(text([&] { file_.get_string("k.bool", ""); }), "metadata key \"k.bool\": expected a string, found bool true");
  EXPECT_EQ(text([&] { file_.require_strings("k.u32s"); }), "metadata key \"k.u32s\": expected an array of strings, found array of 3 u32");
  EXPECT_EQ(text([&] { file_.get_u32s("k.u32s", 4, 0); }), "metadata key \"k.u32s\": expected an integer or an array of exactly 4, found array of 3 u32");
  EXPECT_EQ(text([&] { file_.get_u32s("k.i32s", 3, 0); }), "metadata key \"k.i32s\": expected an integer from 0 to 4294967295, found integer -1");
  EXPECT_EQ(text([&] { file_.get_u32s("k.strings", 3, 0); }), "metadata key \"k.strings\": expected an integer or an array of integers, found array of 3 string");
  EXPECT_EQ(text([&] { file_.get_f32s("k.i32s"); }), "metadata key \"k.i32s\": expected an array of f32, found array of 3 i32");
  EXPECT_EQ(text([&] { file_.get_i32s("k.f32s"); }), "metadata key \"k.f32s\": expected an array of i32, found float 0.5 as element 0");
  EXPECT_EQ(text([&] { file_.require_u32("absent"); }), "metadata key \"absent\": the key is missing; expected an integer");
  EXPECT_EQ(text([&] { file_.require_tensor("blk.9.attn_q.weight"); }), "tensor \"blk.9.attn_q.weight\" is missing among the file's 3 tensors");
  const Error error = error_of([&] { file_.require_u32("k.i32"); });
  EXPECT_NE(error.where().find("field k.i32; offset "), std::string::npos) << error.where();
}

TEST(Getters, RefuseFloatsThatAreNotFinite) {
  GgufWriter w;
  w.put_f32("nan", std::nanf(""));
  w.put_f32("inf", INFINITY);
  const std::string bytes = gguf_bytes(w);
  const GgufFile file = gguf_from_memory(as_bytes(bytes), "m.gguf");
  EXPECT_EQ(error_of([&] { file.require_f32("nan"); }).message(), "metadata key \"nan\": expected a finite f32, found float nan");
  EXPECT_EQ(error_of([&] { file.get_f32("inf", 1); }).message(), "metadata key \"inf\": expected a finite f32, found float inf");
}

// ---- split files ----

/// Part `no` of `count` with one tensor "w<no>".
std::string split_part(uint64_t no, uint64_t count, uint64_t n_tensors, const std::string& tensor_name) {
  GgufWriter w;
  if (no == 0) w.put_string("general.architecture", "llama");
  w.put_u16("split.no", static_cast<uint16_t>(no));
  w.put_u16("split.count", static_cast<uint16_t>(count));
  w.put_i32("split.tensors.count", static_cast<int32_t>(n_tensors));
  if (!tensor_name.empty()) w.add_tensor(tensor_name, DType::kF32, {8});
  return gguf_bytes(w, [&](const TensorInfo& t) { return std::string(t.n_bytes, static_cast<char>('0' + no)); });
}

std::string write_parts(const TempDir& dir, const std::vector<std::string>& parts) {
  std::string first;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string path = dir.write(fmt::format("m-{:05}-of-{:05}.gguf", i + 1, parts.size()), parts[i]);
    if (i == 0) first = path;
  }
  return first;
}

TEST(SplitGguf, JoinsThePartsTensors) {
  const TempDir dir;
  const std::string first = write_parts(dir, {split_part(0, 3, 2, ""), split_part(1, 3, 2, "a"), split_part(2, 3, 2, "b")});
  const GgufFile file = open_gguf(first);
  EXPECT_EQ(file.part_paths().size(), 3u);
  EXPECT_EQ(file.require_string("general.architecture"), "llama");
  EXPECT_EQ(file.require_tensor("a").part, 1u);
  EXPECT_EQ(std::to_integer<char>(file.bytes(file.require_tensor("b"))[0]), '2');
  EXPECT_GE(file.fd(2), 0);
}

TEST(SplitGguf, RefusesBrokenSplits) {
  struct Case { std::string name; std::vector<std::string> parts; std::string message, field; int named_part; };
  const std::vector<Case> cases = {
      {"count differs", {split_part(0, 2, 2, "a"), split_part(1, 3, 2, "b")}, "expected 2 parts as in the first part, found 3", "split.count", 2},
      {"part not split", {split_part(0, 2, 2, "a"), gguf_bytes(sample_writer())}, "expected 2 parts as in the first part, found 0", "split.count", 2},
      {"wrong number", {split_part(0, 3, 3, "a"), split_part(2, 3, 3, "b"), split_part(1, 3, 3, "c")}, "expected part index 1, found 2", "split.no", 2},
      {"opened in the middle", {split_part(1, 2, 2, "a"), split_part(1, 2, 2, "b")}, "this is part 2 of 2: open the first part, whose name ends in \"-00001-of-00002.gguf\"", "split.no", 1},
      {"too few tensors", {split_part(0, 2, 3, "a"), split_part(1, 2, 3, "b")}, "expected 3 tensors in all parts, found 2", "split.tensors.count", 1},
      {"tensor twice", {split_part(0, 2, 2, "a"), split_part(1, 2, 2, "a")}, "tensor \"a\" is in two split parts", "name", 2},
      {"too many parts", {split_part(0, 1000, 2, "a")}, "expected at most 999 split parts, found 1000", "split.count", 1},
      {"broken part", {split_part(0, 2, 2, "a"), "GGUF"}, "the file ends here", "version", 2},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const TempDir dir;
    const std::string first = write_parts(dir, c.parts);
    const Error error = error_of([&] { open_gguf(first); });
    EXPECT_EQ(error.kind(), ErrorKind::kBadModel);
    EXPECT_NE(error.message().find(c.message), std::string::npos) << error.message();
    EXPECT_NE(error.where().find("field " + c.field), std::string::npos) << error.where();
    EXPECT_NE(error.where().find(fmt::format("file {}", (dir.path() / fmt::format("m-{:05}-of-{:05}.gguf", c.named_part, c.parts.size())).string())), std::string::npos) << error.where();
  }
}

TEST(SplitGguf, NamesAMissingPart) {
  const TempDir dir;
  const std::string first = dir.write("m-00001-of-00002.gguf", split_part(0, 2, 2, "a"));
  const Error error = error_of([&] { open_gguf(first); });
  EXPECT_EQ(error.kind(), ErrorKind::kIo);
  EXPECT_EQ(error.message(), (dir.path() / "m-00002-of-00002.gguf").string() + ": can't open the file: No such file or directory");
}

TEST(SplitGguf, RefusesAFirstPartOfAnotherName) {
  const TempDir dir;
  const std::string path = dir.write("renamed.gguf", split_part(0, 2, 2, "a"));
  const Error error = error_of([&] { open_gguf(path); });
  EXPECT_EQ(error.kind(), ErrorKind::kBadModel);
  EXPECT_EQ(error.message(), "the file is the first of 2 parts, so its name must end in \"-00001-of-00002.gguf\"");
}

TEST(SplitGguf, RefusesKeysOfOtherTypesAndMissingOnes) {
  const TempDir dir;
  GgufWriter text;
  text.put_string("split.count", "2");
  const Error wrong_type = error_of([&] { open_gguf(dir.write("a.gguf", gguf_bytes(text))); });
  EXPECT_EQ(wrong_type.message(), "key \"split.count\": expected a non-negative integer");
  GgufWriter lonely;
  lonely.put_u16("split.count", 2);
  const Error missing = error_of([&] { open_gguf(dir.write("b.gguf", gguf_bytes(lonely))); });
  EXPECT_EQ(missing.kind(), ErrorKind::kBadModel);
  EXPECT_NE(missing.message().find("split part lacks key \"split.no\""), std::string::npos) << missing.message();
}

// ---- real files ----

std::vector<std::string> real_models() {
  std::vector<std::string> out;
  const char* folder = std::getenv("SPARKJIT_TEST_MODELS");
  if (folder == nullptr) return out;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".gguf") out.push_back(entry.path().string());
  return out;
}

TEST(RealFiles, AreRefusedWhenTruncatedAtEveryPercentOfHeaderAndData) {
  const std::vector<std::string> models = real_models();
  if (models.empty()) GTEST_SKIP() << "set SPARKJIT_TEST_MODELS to a folder with .gguf files";
  const std::string source = *std::min_element(models.begin(), models.end(), [](const auto& a, const auto& b) { return fs::file_size(a) < fs::file_size(b); });
  const TempDir dir;
  const std::string copy = (dir.path() / "cut.gguf").string();
  fs::copy_file(source, copy);
  const GgufFile whole = open_gguf(source);
  uint64_t header_bytes = whole.size_bytes(), data_end = 0;
  for (const TensorInfo& tensor : whole.tensors()) {
    header_bytes = std::min(header_bytes, tensor.file_offset);
    data_end = std::max(data_end, tensor.file_offset + tensor.n_bytes);
  }
  std::vector<uint64_t> cuts;
  for (uint64_t percent = 0; percent < 100; ++percent) {
    cuts.push_back(header_bytes * percent / 100);
    cuts.push_back(data_end * percent / 100);
  }
  cuts.push_back(data_end - 1);
  std::sort(cuts.rbegin(), cuts.rend());
  for (const uint64_t n : cuts) {
    fs::resize_file(copy, n);
    const Error error = error_of([&] { open_gguf(copy); });
    ASSERT_EQ(error.kind(), ErrorKind::kBadModel) << n;
    const std::string text = error.what();
    const std::string expected = n < 4 ? "not a GGUF file" : n < header_bytes ? "ends here|declares|data section starts" : "the file is cut short";
    bool is_named = false;
    for (size_t from = 0; from <= expected.size();) {
      const size_t to = std::min(expected.find('|', from), expected.size());
      is_named |= text.find(expected.substr(from, to - from)) != std::string::npos;
      from = to + 1;
    }
    ASSERT_TRUE(is_named) << n << ": " << text;
    ASSERT_NE(text.find("file " + copy), std::string::npos) << text;
    ASSERT_NE(text.find("offset "), std::string::npos) << text;
  }
}

TEST(RealFiles, OpenQuickly) {
  const std::vector<std::string> models = real_models();
  if (models.empty()) GTEST_SKIP() << "set SPARKJIT_TEST_MODELS to a folder with .gguf files";
  for (const std::string& path : models) {
    const GgufFile file = open_gguf(path);
    EXPECT_FALSE(file.tensors().empty()) << path;
    EXPECT_FALSE(file.require_string("general.architecture").empty());
  }
}

}  // namespace
}  // namespace sj::gguf_file_test
