// The figures of candidates come back as they were written, whatever a killed process left behind.
#include "runtime/tune_journal.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "jit/base/file.h"
#include "tests/support/error_checks.h"
#include "tests/support/temp_folder.h"

namespace sj::tune_journal_test {
namespace {

TuneFigures figures(const std::string& key, int64_t rows, TuneVerdict verdict = TuneVerdict::kMeasured) {
  return {.device = "card", .driver = "13.0", .key = key, .model = "m", .objective = "step", .date = "2026-01-01T00:00:00Z", .depth_tokens = 128,
          .values = {{"kRows", rows}}, .verdict = verdict, .reason = "r", .why = "w \"<\n", .registers = 40, .smem_bytes = 7, .blocks_per_sm = 2,
          .n_threads = 256, .n_blocks = 5000000000, .n_launches = 48, .bytes = 1e9, .alone_us = 250, .step_us = 1000.5, .gain_us = -1.5,
          .noise_us = 0.25, .peak_gb_per_s = 4800, .rounds = 3};
}

TEST(TuneJournal, LiesBesideTheDatabase) {
  EXPECT_EQ(journal_path("a/tuning.toml"), "a/tuning.candidates.jsonl");
  EXPECT_EQ(journal_path("a/db"), "a/db.candidates.jsonl");
}

TEST(TuneJournal, GivesBackEveryField) {
  const test::TempFolder folder;
  const TuneFigures written = figures("k", 8, TuneVerdict::kWrong);
  append_figures(folder / "j", {&written, 1});
  const std::vector<TuneFigures> read = read_figures(folder / "j");
  ASSERT_EQ(read.size(), 1u);
  const TuneFigures& f = read[0];
  EXPECT_EQ(f.device, written.device);
  EXPECT_EQ(f.values, written.values);
  EXPECT_EQ(f.verdict, TuneVerdict::kWrong);
  EXPECT_EQ(f.why, written.why);
  EXPECT_EQ(f.n_blocks, written.n_blocks);
  EXPECT_EQ(f.step_us, written.step_us);
  EXPECT_EQ(f.gain_us, written.gain_us);
  EXPECT_EQ(f.rounds, 3u);
  EXPECT_EQ(f.gb_per_s(), 4000);
  EXPECT_TRUE(read_figures(folder / "missing").empty());
}

TEST(TuneJournal, TheLastLineOfACandidateCounts) {
  const test::TempFolder folder;
  for (const TuneVerdict verdict : {TuneVerdict::kMeasured, TuneVerdict::kWinner}) {
    const std::vector<TuneFigures> some = {figures("a", 8, verdict), figures("a", 16), figures("b", 8)};
    append_figures(folder / "j", some);
  }
  const std::vector<TuneFigures> read = read_figures(folder / "j");
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[0].verdict, TuneVerdict::kWinner);
}

TEST(TuneJournal, EveryTruncationLosesOneLineAtMost) {
  const test::TempFolder folder;
  const std::vector<TuneFigures> some = {figures("a", 8), figures("b", 8)};
  append_figures(folder / "j", some);
  const std::string whole = read_file(folder / "j");
  const size_t first_line = whole.find('\n', 1) + 1;
  for (size_t n = first_line; n < whole.size(); n += 7) {
    atomic_write(folder / "cut", std::string_view(whole).substr(0, n));
    const TuneFigures next = figures("c", 8);
    append_figures(folder / "cut", {&next, 1});
    const std::vector<TuneFigures> read = read_figures(folder / "cut");
    ASSERT_GE(read.size(), 2u) << n << " bytes";
    EXPECT_EQ(read.front().key, "a");
    EXPECT_EQ(read.back().key, "c") << "what comes after a torn line is whole";
  }
}

TEST(TuneJournal, AnUnwritablePlaceIsNamed) {
  const TuneFigures some = figures("a", 8);
  EXPECT_TRUE(test::throws_error([&] { append_figures("/no/such/folder/j", {&some, 1}); }, ErrorKind::kIo, "/no/such/folder/j", "No such file"));
}

}  // namespace
}  // namespace sj::tune_journal_test
