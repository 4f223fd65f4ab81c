// Sweeps on the software GPU: times there mean nothing, but everything else is real. What must hold: every candidate's outputs are
// compared, wrong ones never win, the database is whole at any moment, and a sweep goes on where another one ended.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "cache/tuning_db.h"
#include "runtime/tune_journal.h"
#include "tests/e2e/binary.h"
#include "tests/e2e/failure.h"
#include "tests/support/gguf_writer.h"

namespace sj::test::tune_test {
namespace {

constexpr int kUsage = 2, kIo = 3, kCuda = 7, kKilled = 128 + 9;
const std::string kLibcuda = SPARKJIT_SOFTGPU_LIB "/libcuda.so.1";
const std::string kLibnvrtc = SPARKJIT_SOFTGPU_LIB "/libnvrtc.so.13";
using Args = std::vector<std::string>;

// The two output matrices of half layers (attn_output, ffn_down) have a few candidates each: 4, 8 (the default), 16 warps and more.
constexpr const char* kShape = R"(name = "tiny"
architecture = "llama"
[hyperparameters]
block_count = 2
context_length = 512
embedding_length = 128
feed_forward_length = 64
attention.head_count = 2
attention.head_count_kv = 1
attention.key_length = 64
attention.value_length = 64
attention.layer_norm_rms_epsilon = 1e-6
rope.freq_base = 10000.0
rope.dimension_count = 64
[tokenizer]
pre = "qwen2"
n_vocab = 300
eos_token_id = 2
[mix]
token_embd = "Q8_0"
output = "Q8_0"
output_norm = "F32"
attn_norm = "F32"
attn_q = "Q8_0"
attn_k = "Q8_0"
attn_v = "Q8_0"
attn_output = "Q8_0"
ffn_norm = "F32"
ffn_gate = "Q8_0"
ffn_up = "Q8_0"
ffn_down = "Q8_0"
)";
const std::set<std::string> kKeys = {"decode_gemv: Q8_0 128x128, finishing", "decode_gemv: Q8_0 128x64, finishing"};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class Tune : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string db_path() const { return path("tuning.toml"); }
  Args args(const Args& more = {}) const {
    Args all = {"tune", "--shape", shape_, "-c", "64", "-d", "20", "--kernels", "*finishing", "-r", "3", "--budget", "10m", "--libcuda", kLibcuda,
                "--libnvrtc", kLibnvrtc, "--cache-dir", path("cache")};
    if (std::find(more.begin(), more.end(), "--db") == more.end()) all.insert(all.end(), {"--db", db_path()});
    for (const std::string& arg : more) {   // a flag given again takes the place of the first
      const auto old = arg.starts_with("-") ? std::find(all.begin(), all.end(), arg) : all.end();
      if (old != all.end()) all.erase(old, old + 2);
    }
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Outcome tune(const Args& more = {}, const RunOptions& options = {}) const { return run_sparkjit(args(more), options); }
  std::set<std::string> recorded_keys() const {
    std::set<std::string> keys;
    for (const TuneRecord& r : read_tuning_db(db_path()).records) EXPECT_TRUE(keys.insert(r.key).second) << r.key << " twice";
    return keys;
  }
  /// kernel_src with decode_gemv.cu changed.
  std::string changed_kernels(const std::string& old_text, const std::string& new_text) const {
    const std::string dir = path("kernels");
    std::filesystem::copy(SPARKJIT_SOURCE_DIR "/kernel_src", dir, std::filesystem::copy_options::recursive);
    std::ifstream file(dir + "/decode_gemv.cu");
    std::string text{std::istreambuf_iterator<char>(file), {}};
    const size_t at = text.find(old_text);
    EXPECT_NE(at, std::string::npos) << "the kernel has changed: " << old_text;
    if (at != std::string::npos) text.replace(at, old_text.size(), new_text);
    std::ofstream(dir + "/decode_gemv.cu") << text;
    return dir;
  }

  TempDir folder_;
  std::string shape_ = folder_.write("tiny.toml", kShape);
};

TEST_F(Tune, SweepsRecordsReportsAndIsNotRepeated) {
  const Outcome first = tune({"--report", path("report.html")});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(recorded_keys(), kKeys);
  size_t n_candidates = 0;
  for (const TuneRecord& r : read_tuning_db(db_path()).records) {
    EXPECT_EQ(r.device, "NVIDIA GeForce RTX 5090");
    EXPECT_EQ(r.arch, "sm_120f");
    EXPECT_EQ(r.driver, "13.0");
    EXPECT_EQ(r.default_values, (TuneValues{{"kEarlyChunks", 1}, {"kWarps", 8}}));
    EXPECT_GE(r.n_candidates, 3u);
    n_candidates += r.n_candidates;
    EXPECT_EQ(r.context, "tiny, 20 tokens");
    EXPECT_GT(r.default_us, 0);
  }
  const std::vector<TuneFigures> figures = read_figures(journal_path(db_path()));
  EXPECT_EQ(figures.size(), n_candidates);
  for (const TuneFigures& f : figures) {
    EXPECT_NE(f.verdict, TuneVerdict::kWrong) << f.why;
    EXPECT_GT(f.alone_us, 0) << tune_text(f.values);
    EXPECT_GT(f.registers, 0u);
    EXPECT_EQ(f.n_launches, 2u);
  }
  for (const std::string& key : kKeys) EXPECT_TRUE(has(first.out, "| " + key + " |")) << first.out;
  EXPECT_TRUE(has(first.out, std::to_string(n_candidates) + " candidates swept, 0 of them (0 %) pruned without running")) << first.out;

  const Outcome second = tune({"--report", path("again.html")});
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_TRUE(has(second.err, "2 kernels are known already")) << second.err;
  EXPECT_FALSE(has(second.err, "model loaded")) << "nothing to measure";
  EXPECT_EQ(read_figures(journal_path(db_path())).size(), n_candidates);
  std::ifstream page(path("again.html"));
  const std::string html{std::istreambuf_iterator<char>(page), {}};
  EXPECT_TRUE(has(html, "kWarps=16")) << "a report can be made of what earlier sweeps found";

  const Outcome again = tune({"--again", "--kernels", "*x64, finishing", "--objective", "kernel"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(recorded_keys(), kKeys) << "the newer record is in the older one's place";
}

TEST_F(Tune, AWrongCandidateIsCaughtNamedAndNeverWins) {
  // With 4 warps one row is 2 % too large; with 16 nothing is written.
  const std::string dir = changed_kernels("if (threadIdx.x < n_rows) y = shared.tile.row(threadIdx.x) * factor",
                                          "if (kWarps == 16) return;\n    if (threadIdx.x < n_rows) y = shared.tile.row(threadIdx.x) * "
                                          "(kWarps == 4 && threadIdx.x == 5 ? 1.02f : 1.0f) * factor");
  const Outcome outcome = tune({"--kernel-dir", dir, "--kernels", "*x128, finishing", "--report", path("report.html")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "kWarps=4 computes something else and is out")) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "kWarps=16 computes something else and is out")) << outcome.err;
  EXPECT_TRUE(has(outcome.out, "2 candidates computed something else than the default")) << outcome.out;
  const TuningDb db = read_tuning_db(db_path());
  ASSERT_EQ(db.records.size(), 1u);
  const auto is_wrong = [](const TuneValues& values) { return values.at("kWarps") == 4 || values.at("kWarps") == 16; };
  EXPECT_FALSE(is_wrong(db.records[0].values));
  for (const TuneFigures& f : read_figures(journal_path(db_path()))) {
    EXPECT_EQ(f.verdict == TuneVerdict::kWrong, is_wrong(f.values)) << tune_text(f.values);
    EXPECT_EQ(has(f.why, "nan"), f.values.at("kWarps") == 16) << f.why;
    EXPECT_EQ(f.step_us > 0, !is_wrong(f.values)) << "measured although it is wrong, or not although it is right";
  }
  std::ifstream page(path("report.html"));
  EXPECT_TRUE(has({std::istreambuf_iterator<char>(page), {}}, "2 compute something else"));
}

TEST_F(Tune, ACandidateThatWritesElsewhereIsCaught) {
  const std::string dir = changed_kernels("    if (warp_idx() == 0) finish_rows",
                                          "    if (kWarps == 4 && threadIdx.x == 0 && blockIdx.x == 0) args.y[kRowsOut + 3] = 1.0f;\n"
                                          "    if (warp_idx() == 0) finish_rows");
  const Outcome outcome = tune({"--kernel-dir", dir, "--kernels", "*x128, finishing"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "kWarps=4 computes something else and is out")) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "writes outside of its outputs: byte ")) << outcome.err;
  EXPECT_FALSE(has(outcome.err, "kWarps=16 computes")) << outcome.err;
}

TEST_F(Tune, ACandidateThatEndsTheDeviceIsNamedAndNotTriedAgain) {
  // The checks look at the stream while a launch runs: two launches of the default, twice each, then those of the first candidate.
  const Outcome first = tune({}, {.environment = {{"SOFTCUDA_FAULT", "cuStreamQuery:5:700"}}});
  EXPECT_TRUE(fails(first, kCuda, {"CUDA_ERROR_ILLEGAL_ADDRESS", "candidate kEarlyChunks=1 kWarps=", "finishing"}));
  const std::vector<TuneFigures> failed = read_figures(journal_path(db_path()));
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].verdict, TuneVerdict::kFailed);
  const Outcome second = tune();
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(recorded_keys(), kKeys);
  EXPECT_TRUE(has(second.out, "pruned without running: 1 failed before")) << second.out;
}

TEST_F(Tune, KilledAtAnyMomentItLosesNothingAndGoesOn) {
  const Outcome whole = tune({"--db", path("other.toml")});   // how long it takes here, and everything is compiled
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  std::mt19937 random(11);
  std::set<std::string> known;
  uint32_t n_killed = 0;
  for (int i = 0; i < 5 && known != kKeys; ++i) {
    const Outcome outcome = tune({}, {.timeout_s = whole.wall_s * std::uniform_real_distribution(0.05, 1.0)(random)});
    n_killed += outcome.exit_code == kKilled;
    EXPECT_TRUE(outcome.exit_code == kKilled || outcome.exit_code == 0) << outcome.err;
    const std::set<std::string> keys = recorded_keys();   // throws when the file is damaged
    EXPECT_TRUE(std::includes(keys.begin(), keys.end(), known.begin(), known.end())) << "a record was lost";
    known = keys;
    read_figures(journal_path(db_path()));
  }
  EXPECT_GT(n_killed, 0u);
  const Outcome last = tune();
  EXPECT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(recorded_keys(), kKeys);
  EXPECT_TRUE(has(last.err, std::to_string(known.size()) + " kernels are known already")) << last.err;
}

TEST_F(Tune, ASpentBudgetEndsItAndTheNextRunGoesOn) {
  const Outcome first = tune({"--budget", "1s"});
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_TRUE(has(first.err, "the budget is spent") || has(first.err, "no time to finish")) << first.err;
  EXPECT_TRUE(has(first.out, "| no time |")) << first.out;
  EXPECT_NE(recorded_keys(), kKeys);
  EXPECT_EQ(tune().exit_code, 0);
  EXPECT_EQ(recorded_keys(), kKeys);
}

TEST_F(Tune, ADryRunNeedsNoDriverAndRecordsNothing) {
  const Outcome outcome = tune({"--dry-run", "--device", "gb10", "--libcuda", "/no/such/libcuda.so"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(has(outcome.out, "NVIDIA GB10 (sm_121f): what a sweep would measure; nothing has run")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "kWarps=8  (default)")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "\n2 kernels, ")) << outcome.out;
  EXPECT_FALSE(std::filesystem::exists(db_path()));
}

TEST_F(Tune, BadInputIsNamed) {
  EXPECT_TRUE(fails(tune({"--dry-run", "--device", "rtx9999"}), kUsage, {"rtx9999", "rtx5090"}));
  EXPECT_TRUE(fails(tune({"--device", "rtx5090"}), kUsage, {"--device", "rtx5090", "--dry-run"}));
  EXPECT_TRUE(fails(tune({"--device", "cpu"}), kUsage, {"--device", "cpu"}));
  EXPECT_TRUE(fails(tune({"--kernels", "decode_nothing*"}), kUsage, {"--kernels", "decode_nothing*", "128x64, finishing"}));
  for (const char* budget : {"5", "m", "5x", "-3m", "0s", "25h", "nanm", ""})
    EXPECT_TRUE(fails(tune({"--budget", budget}), kUsage, {"--budget", budget, "90s, 5m, 1h"})) << budget;
  EXPECT_TRUE(fails(tune({"-d", "64"}), kUsage, {"--depth", "64"}));
  EXPECT_TRUE(fails(tune({"-c", "2", "-d", "0"}), kUsage, {"--ctx", "2", "at least 4"}));
  EXPECT_TRUE(fails(tune({"--no-jit"}), kUsage, {"--no-jit"}));
  EXPECT_TRUE(fails(tune({"-m", "x.gguf"}), kUsage, {"one of --model and --shape"}));
  EXPECT_TRUE(fails(tune({"--report", "x.html", "--dry-run", "--device", "rtx5090"}), kUsage, {"--report"}));
  EXPECT_TRUE(fails(tune({"--objective", "speed"}), kUsage, {"--objective", "speed", "step"}));
  EXPECT_TRUE(fails(tune({"--libcuda", "/no/such/libcuda.so"}), kCuda, {"/no/such/libcuda.so"}));
}

TEST_F(Tune, ADatabaseThatCantBeWrittenOrReadIsKnownAtOnce) {
  const Outcome unwritable = tune({"--db", "/proc/no/tuning.toml"});
  EXPECT_TRUE(fails(unwritable, kIo, {"/proc/no/tuning.toml"}));
  EXPECT_FALSE(has(unwritable.err, "model loaded"));
  folder_.write("tuning.toml", "format = 1\n[[kernel]]\nkey = 3\n");
  EXPECT_TRUE(fails(tune(), kUsage, {db_path(), "key"}));
}

}  // namespace
}  // namespace sj::test::tune_test
