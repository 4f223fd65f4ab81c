#include "jit/device_info.h"

#include <gtest/gtest.h>

#include "jit/base/file.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::device_info_test {
namespace {

using test::throws_error;

std::string with(const std::string& key, const std::string& value) {
  std::string text = device_profile_text(require_device_profile("h200"));
  const size_t begin = text.find(key + " = ");
  EXPECT_NE(begin, std::string::npos) << key;
  return text.replace(begin, text.find('\n', begin) - begin, key + " = " + value);
}

TEST(DeviceProfile, EveryEmbeddedOneIsValidAndRoundTrips) {
  const std::vector<std::string> names = device_profile_names();
  EXPECT_GE(names.size(), 4u);
  for (const std::string& name : names) {
    const DeviceInfo info = require_device_profile(name);
    EXPECT_EQ(parse_device_profile(device_profile_text(info), name), info) << name;
  }
}

TEST(DeviceProfile, TargetCarriesTheFamilySuffixFromBlackwellOn) {
  EXPECT_EQ(require_device_profile("h200").target(), "sm_90");
  EXPECT_EQ(require_device_profile("rtx5090").target(), "sm_120f");
  EXPECT_EQ(require_device_profile("rtxpro6000").target(), "sm_120f");
  EXPECT_EQ(require_device_profile("gb10").target(), "sm_121f");
}

TEST(DeviceProfile, KnowsWhatDiffersBetweenCards) {
  EXPECT_EQ(require_device_profile("rtx5090").smem_per_block_bytes, 99u * 1024);
  EXPECT_EQ(require_device_profile("h200").smem_per_block_bytes, 227u * 1024);
  EXPECT_TRUE(require_device_profile("gb10").is_integrated);
  EXPECT_FALSE(require_device_profile("rtx5090").is_integrated);
}

TEST(DeviceProfile, UnknownNameListsTheKnownOnes) {
  EXPECT_TRUE(throws_error([] { require_device_profile("rtx9090"); }, ErrorKind::kUsage, "rtx9090", "gb10, h200", "rtx5090"));
}

TEST(DeviceProfile, PathIsRead) {
  const test::TempFolder folder;
  atomic_write(folder / "mine.toml", with("n_sms", "77"));
  EXPECT_EQ(require_device_profile(folder / "mine.toml").n_sms, 77u);
  EXPECT_TRUE(throws_error([&] { require_device_profile(folder / "none.toml"); }, ErrorKind::kIo, "none.toml"));
}

TEST(DeviceProfile, ImpossibleFiguresAreRefusedByName) {
  const auto parse = [](const std::string& text) { return [text] { parse_device_profile(text, "p.toml"); }; };
  EXPECT_TRUE(throws_error(parse(with("n_sms", "0")), ErrorKind::kUnsupported, "p.toml", "n_sms is 0", "1 to"));
  EXPECT_TRUE(throws_error(parse(with("n_sms", "-1")), ErrorKind::kUnsupported, "n_sms is -1"));
  EXPECT_TRUE(throws_error(parse(with("n_sms", "1.5")), ErrorKind::kUnsupported, "n_sms is not an integer"));
  EXPECT_TRUE(throws_error(parse(with("compute_major", "7")), ErrorKind::kUnsupported, "compute_major is 7"));
  EXPECT_TRUE(throws_error(parse(with("smem_per_sm_bytes", "65536")), ErrorKind::kUnsupported, "smem_per_sm_bytes is 65536"));
  EXPECT_TRUE(throws_error(parse(with("bandwidth_gb_per_s", "nan")), ErrorKind::kUnsupported, "bandwidth_gb_per_s"));
  EXPECT_TRUE(throws_error(parse(with("name", "\"\"")), ErrorKind::kUnsupported, "name is not a text"));
  EXPECT_TRUE(throws_error(parse(with("is_integrated", "1")), ErrorKind::kUnsupported, "is_integrated is not true or false"));
  EXPECT_TRUE(throws_error(parse(with("l2_bytes", "52428800\nl3_bytes = 1")), ErrorKind::kUnsupported, "unknown key l3_bytes"));
  EXPECT_TRUE(throws_error(parse("name = \"x\"\n"), ErrorKind::kUnsupported, "compute_major is missing"));
  EXPECT_TRUE(throws_error(parse("name = \n"), ErrorKind::kUnsupported, "p.toml", "line 1"));
}

}  // namespace
}  // namespace sj::device_info_test
