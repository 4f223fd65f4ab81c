#include "jit/source_set.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "jit/base/file.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::source_set_test {
namespace {

std::vector<std::string> header_names(const SourceClosure& closure) {
  std::vector<std::string> names;
  for (const NamedText& header : closure.headers) names.push_back(header.name);
  return names;
}

TEST(SourceSet, ClosureFollowsQuotedIncludes) {
  const SourceSet set(SourceSet::Files{{"x.cu", "#include \"a.cuh\"\n  #  include \"x_args.h\"  // why\n#include <cstdint>\n"},
                       {"device/a.cuh", "#include \"b.cuh\"\n"},
                       {"device/b.cuh", "#include \"a.cuh\"\n#include \"sj_baked.h\"\nint b;\n"},
                       {"device/unused.cuh", ""},
                       {"args/x_args.h", "int x;"}});
  const SourceClosure closure = set.require_closure("x.cu");
  EXPECT_EQ(header_names(closure), (std::vector<std::string>{"a.cuh", "b.cuh", "x_args.h"}));
  EXPECT_EQ(closure.headers[2].text, "int x;");
  EXPECT_EQ(closure.entry.name, "x.cu");
}

TEST(SourceSet, IncludeMayNameTheFolder) {
  const SourceSet set(SourceSet::Files{{"x.cu", "#include \"kernel_src/args/x.h\"\n#include \"device/a.cuh\"\n"}, {"args/x.h", "1"}, {"device/a.cuh", "2"}});
  EXPECT_EQ(header_names(set.require_closure("x.cu")), (std::vector<std::string>{"device/a.cuh", "kernel_src/args/x.h"}));
}

TEST(SourceSet, CommentedIncludeIsNotFollowed) {
  const SourceSet set(SourceSet::Files{{"x.cu", "// #include \"a.cuh\"\nint a; #include \"a.cuh\"\n"}, {"device/a.cuh", ""}});
  EXPECT_TRUE(set.require_closure("x.cu").headers.empty());
}

TEST(SourceSet, MissingEntryNamesThoseThatExist) {
  const SourceSet set(SourceSet::Files{{"x.cu", ""}, {"y.cu", ""}});
  EXPECT_TRUE(test::throws_error([&] { set.require_closure("z.cu"); }, ErrorKind::kCompile, "z.cu", "x.cu, y.cu"));
}

TEST(SourceSet, EmbeddedTextsEqualTheFiles) {
  const std::filesystem::path root = std::filesystem::path(SPARKJIT_SOURCE_DIR) / "kernel_src";
  size_t n_checked = 0;
  for (const char* folder : {"", "device", "args", "profiles"})
    for (const auto& item : std::filesystem::directory_iterator(root / folder)) {
      const std::string extension = item.path().extension().string(), name = item.path().filename().string();
      const std::string in_folder = folder;
      if (!(extension == ".cu" || extension == ".cuh" || extension == ".toml" || (extension == ".h" && in_folder == "args"))) continue;
      const std::string path = in_folder.empty() ? name : in_folder + "/" + name;
      const std::string* text = SourceSet::embedded().find_text(path);
      ASSERT_NE(text, nullptr) << path;
      EXPECT_TRUE(*text == read_file(item.path().string())) << path;
      ++n_checked;
    }
  EXPECT_GT(n_checked, 4u);
}

TEST(SourceSet, FolderReplacesTheEmbeddedTexts) {
  const test::TempFolder folder;
  std::filesystem::create_directories(folder / "device");
  atomic_write(folder / "x.cu", "#include \"a.cuh\"\n");
  atomic_write(folder / "device/a.cuh", "int a;");
  const SourceSet set = SourceSet::from_folder(folder.path());
  EXPECT_EQ(set.entry_paths(), std::vector<std::string>{"x.cu"});
  EXPECT_EQ(set.require_closure("x.cu").headers.at(0).text, "int a;");
  EXPECT_EQ(set.origin(), folder.path());
}

TEST(SourceSet, UnusableFolderIsRefused) {
  const test::TempFolder folder;
  EXPECT_TRUE(test::throws_error([&] { SourceSet::from_folder(folder / "none"); }, ErrorKind::kIo, "none", "not a directory"));
  EXPECT_TRUE(test::throws_error([&] { SourceSet::from_folder(folder.path()); }, ErrorKind::kIo, folder.path(), "no kernel text"));
}

}  // namespace
}  // namespace sj::source_set_test
