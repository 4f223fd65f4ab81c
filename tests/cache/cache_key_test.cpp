// Each input of the key changes it; nothing else does.
#include "cache/cache_key.h"

#include <gtest/gtest.h>

#include <set>

namespace sj::cache_key_test {
namespace {

struct Input {
  NamedText entry_text = {"x.cu", "kernel text"};
  std::vector<NamedText> headers = {{"a.cuh", "header a"}, {"b.cuh", "header b"}};
  std::string baked = "constants";
  std::vector<std::string> options = {"--gpu-architecture=sm_90", "-std=c++20"};
  std::string target = "sm_90", entry = "sj_x";
  CompilerId compiler = {13000, "1234"};

  std::string key() const {
    return cache_key({.entry_text = entry_text, .headers = headers, .baked = baked, .options = options, .target = target, .entry = entry,
                      .compiler = compiler});
  }
};

template <class Change>
std::string changed(Change&& change) {
  Input input;
  change(input);
  return input.key();
}

TEST(CacheKey, HasThirtyTwoHexDigits) {
  const std::string key = Input{}.key();
  EXPECT_EQ(key.size(), 32u);
  EXPECT_EQ(key.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(key, Input{}.key());
}

TEST(CacheKey, EveryInputChangesIt) {
  const std::vector<std::string> keys = {
      Input{}.key(),
      changed([](Input& in) { in.entry_text.text = "kernel text "; }),
      changed([](Input& in) { in.headers[0].text = "header A"; }),
      changed([](Input& in) { in.headers[0].name = "aa.cuh"; }),
      changed([](Input& in) { in.headers.pop_back(); }),
      changed([](Input& in) { in.headers.push_back({"c.cuh", ""}); }),
      changed([](Input& in) { in.baked = "constants2"; }),
      changed([](Input& in) { in.options[1] = "-std=c++17"; }),
      changed([](Input& in) { in.options.pop_back(); }),
      changed([](Input& in) { std::swap(in.options[0], in.options[1]); }),
      changed([](Input& in) { in.target = "sm_90a"; }),
      changed([](Input& in) { in.entry = "sj_y"; }),
      changed([](Input& in) { in.compiler.version = 12090; }),
      changed([](Input& in) { in.compiler.build_id = "1235"; }),
  };
  EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(), keys.size());
}

TEST(CacheKey, FieldsDoNotRunIntoEachOther) {
  const std::vector<std::string> keys = {
      Input{}.key(),
      changed([](Input& in) { in.headers[0] = {"a.cuhheader", " a"}; }),
      changed([](Input& in) { in.headers[0].text = "header ab.cuh"; in.headers[1].name = ""; }),
      changed([](Input& in) { in.options = {"--gpu-architecture=sm_90-std=c++20"}; }),
      changed([](Input& in) { in.target = "sm_90s"; in.entry = "j_x"; }),
      changed([](Input& in) { in.baked = "constants2"; in.entry_text.text = "kernel tex"; }),
  };
  EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(), keys.size());
}

TEST(CacheKey, NameOfTheEntryFileDoesNotMatter) {
  EXPECT_EQ(changed([](Input& in) { in.entry_text.name = "y.cu"; }), Input{}.key());
}

TEST(CacheKey, OfASpecFollowsConstantsSourcesAndTarget) {
  const SourceSet sources({{"x.cu", "#include \"a.cuh\"\n"}, {"device/a.cuh", "1"}, {"device/unused.cuh", "1"}});
  const SourceSet other_header({{"x.cu", "#include \"a.cuh\"\n"}, {"device/a.cuh", "2"}, {"device/unused.cuh", "1"}});
  const SourceSet other_unused({{"x.cu", "#include \"a.cuh\"\n"}, {"device/a.cuh", "1"}, {"device/unused.cuh", "2"}});
  KernelSpec spec = {.source = "x.cu", .entry = "sj_x", .baked = {{"kRows", int64_t{1}}}, .launch = {}, .cost = {}};
  const CompilerId compiler = {13000, "id"};
  const std::string key = cache_key(spec, sources, "sm_90", compiler);
  EXPECT_NE(key, cache_key(spec, other_header, "sm_90", compiler));
  EXPECT_EQ(key, cache_key(spec, other_unused, "sm_90", compiler));
  EXPECT_NE(key, cache_key(spec, sources, "sm_120f", compiler));
  EXPECT_NE(cache_key(spec, sources, "sm_120f", compiler), cache_key(spec, sources, "sm_121f", compiler));
  // The launch shape and the cost do not reach the compiler.
  KernelSpec launched = spec;
  launched.launch = {.grid = {99}, .block = {32}, .dynamic_smem_bytes = 1024};
  launched.cost = {.bytes = 1, .flops = 1};
  EXPECT_EQ(key, cache_key(launched, sources, "sm_90", compiler));
  spec.baked[0].value = int64_t{2};
  EXPECT_NE(key, cache_key(spec, sources, "sm_90", compiler));
}

}  // namespace
}  // namespace sj::cache_key_test
