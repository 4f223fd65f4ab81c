#include "cache/tuning_db.h"

#include <gtest/gtest.h>

#include <random>

#include "jit/base/file.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::tuning_db_test {
namespace {

using test::throws_error;

TuneRecord record(const std::string& key, int64_t warps, const std::string& date, const std::string& driver = "13.0") {
  return {.key = key, .device = "NVIDIA H200", .driver = driver, .arch = "sm_90", .values = {{"kTileRows", 24}, {"kWarps", warps}},
          .default_values = {{"kTileRows", 16}, {"kWarps", 8}}, .default_us = 961.25, .tuned_us = 950, .noise_us = 0.75, .objective = "step",
          .context = "qwen3-30b-a3b, 128 tokens", .date = date, .n_candidates = 20, .n_pruned = 7};
}

DeviceInfo h200() { return require_device_profile("h200"); }

TEST(TuningDb, ReadsBackWhatItWrites) {
  TuningDb db{{record("decode_gemv: q4_K 4096x2048, normed", 16, "2026-11-21T09:30:00Z"), record("odd \"key\"\\\n\x01", -3, "2026")}};
  db.records[1].values = db.records[1].default_values;
  db.records[1].noise_us = 0.1 + 0.2;
  EXPECT_EQ(parse_tuning_db(tuning_db_text(db), "x"), db);
  EXPECT_TRUE(db.records[1].is_default());
  EXPECT_EQ(parse_tuning_db(tuning_db_text({}), "x"), TuningDb{});
}

TEST(TuningDb, MissingFileIsEmptyAndAWrittenOneIsRead) {
  const test::TempFolder folder;
  EXPECT_TRUE(read_tuning_db(folder / "tuning.toml").records.empty());
  const TuningDb db{{record("k", 4, "2026")}};
  write_tuning_db(folder / "tuning.toml", db);
  EXPECT_EQ(read_tuning_db(folder / "tuning.toml"), db);
  EXPECT_TRUE(throws_error([&] { write_tuning_db(folder / "none/tuning.toml", db); }, ErrorKind::kIo, "none/tuning.toml"));
}

TEST(TuningDb, MessagesNameFileLineFieldAndRule) {
  const std::string good = tuning_db_text({{record("k", 4, "2026")}});
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const auto fails = [&](const std::string& text, const auto&... parts) {
    return throws_error([&] { parse_tuning_db(text, "t.toml"); }, ErrorKind::kUsage, "t.toml", parts...);
  };
  EXPECT_TRUE(fails("x = ", "t.toml:1", "not TOML"));
  EXPECT_TRUE(fails("", "format: expected 1, found none"));
  EXPECT_TRUE(fails("format = 0", "format: expected 1"));
  EXPECT_TRUE(fails("format = 1\nkernel = 3", "t.toml:2: kernel: expected format and [[kernel]] records only"));
  EXPECT_TRUE(fails("format = 1\nkernel = [3]", "kernel record: expected a table"));
  EXPECT_TRUE(fails("format = 1\nkernels = []", "kernels: expected format"));
  EXPECT_TRUE(fails(with("noise_us", "noise"), "t.toml:4: kernel record: noise_us is missing"));
  EXPECT_TRUE(fails(with("noise_us = 0.75", "noise_us = -1"), "noise_us: expected microseconds, 0 or more"));
  EXPECT_TRUE(fails(with("noise_us = 0.75", "noise_us = nan"), "noise_us: expected microseconds"));
  EXPECT_TRUE(fails(with("pruned = 7", "pruned = -7"), "pruned: expected a count"));
  EXPECT_TRUE(fails(with("pruned = 7", "pruned = 7\nprund = 7"), "prund: no such field"));
  EXPECT_TRUE(fails(with("\"NVIDIA H200\"", "\"\""), "device: expected a string that is not empty"));
  EXPECT_TRUE(fails(with("\"kWarps\" = 4", "\"kWarps\" = \"4\""), "values.kWarps: expected a whole number"));
  EXPECT_TRUE(throws_error([&] { parse_tuning_db(with("format = 1", "format = 2"), "t.toml"); }, ErrorKind::kUnsupported,
                           "t.toml: format: expected 1, found 2: written by a newer sparkjit"));
}

TEST(TuningDb, EveryTruncationIsReadOrRefusedWithAMessage) {
  const std::string text = tuning_db_text({{record("k", 4, "2026"), record("l", 8, "2026")}});
  for (size_t n = 0; n < text.size(); ++n) {
    try {
      EXPECT_LE(parse_tuning_db(text.substr(0, n), "t").records.size(), 2u);
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::kUsage || error.kind() == ErrorKind::kUnsupported) << error.what();
    }
  }
}

TEST(TuningDb, MergeKeepsTheLaterOfTwoRecords) {
  TuningDb db{{record("k", 4, "2026-02"), record("l", 4, "2026-02")}};
  merge_records(db, std::vector{record("k", 8, "2026-03"), record("l", 8, "2026-01"), record("k", 16, "2026-01", "12.8")});
  ASSERT_EQ(db.records.size(), 3u);
  EXPECT_EQ(db.records[0].values.at("kWarps"), 8);
  EXPECT_EQ(db.records[1].values.at("kWarps"), 4) << "an older record of another sweep changes nothing";
  EXPECT_EQ(db.records[2].driver, "12.8");
  const TuningDb once = db;
  merge_records(db, once.records);
  EXPECT_EQ(db, once);
}

TEST(TuningDb, ACardGetsItsOwnDriversRecordsFirst) {
  TuningDb db{{record("k", 4, "2026-02"), record("k", 16, "2026-03", "12.8"), record("l", 16, "2026-03", "12.8"), record("m", 4, "2026")}};
  db.records.push_back(record("n", 4, "2026"));
  db.records.back().device = "NVIDIA H100";
  db.records[3].values = db.records[3].default_values;
  const Tuning tuning = tuning_for(db, h200(), "13.0");
  EXPECT_FALSE(tuning.is_strict);
  ASSERT_EQ(tuning.chosen.size(), 2u) << "neither another card's nor what has no effect";
  EXPECT_EQ(tuning.find("k")->at("kWarps"), 4);
  EXPECT_EQ(tuning.find("l")->at("kWarps"), 16) << "another driver's record is better than none";
  EXPECT_EQ(tuning_for(db, h200(), "").find("k")->at("kWarps"), 16) << "the latest";
  EXPECT_TRUE(tuning_for(db, require_device_profile("rtx5090"), "13.0").chosen.empty());
}

TEST(TuningDb, ShippedTuningsNameProfiledCards) {
  std::vector<std::string> names;
  for (const std::string& profile : device_profile_names()) names.push_back(require_device_profile(profile).name);
  for (const TuneRecord& r : shipped_tunings().records) EXPECT_NE(std::find(names.begin(), names.end(), r.device), names.end()) << r.device;
}

TEST(TuningDb, LiesBesideTheCubins) {
  EXPECT_EQ(default_tuning_path("/c/sparkjit"), "/c/sparkjit/tuning.toml");
  EXPECT_EQ(default_tuning_path("none"), "");
  EXPECT_EQ(default_tuning_path(""), "");
}

}  // namespace
}  // namespace sj::tuning_db_test
