// Flags of the sparkjit binary: strict parsing with messages that name the flag, the value and the range.
// In: argc/argv. Out: the chosen verb, run with its options. Each verb file registers itself. The only door to CLI11.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/session.h"

namespace CLI { class App; }

namespace sj {

/// The flags of one verb, each bound to a variable that must outlive the parse. `names` are spelled "-c,--ctx"; messages
/// use the last of them. A value that is not wholly a number, out of range or not a choice throws kUsage while parsing.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(&app) {}
  void text(const std::string& names, std::string& value, const std::string& help, const std::string& type);
  /// May be given several times; the values together replace what `values` held.
  void texts(const std::string& names, std::vector<std::string>& values, const std::string& help, const std::string& type);
  void required_text(const std::string& names, std::string& value, const std::string& help, const std::string& type);
  /// A word without a flag in front.
  void required_positional(const std::string& name, std::string& value, const std::string& help);
  /// All words without a flag in front; at least one.
  void required_positionals(const std::string& name, std::vector<std::string>& values, const std::string& help);
  void toggle(const std::string& names, bool& value, const std::string& help);
  void integer(const std::string& names, int32_t& value, int64_t low, int64_t high, const std::string& help);
  void integer(const std::string& names, uint32_t& value, int64_t low, int64_t high, const std::string& help);
  void integer(const std::string& names, uint64_t& value, int64_t low, int64_t high, const std::string& help);
  void real(const std::string& names, float& value, double low, double high, const std::string& help);
  void integers(const std::string& names, std::vector<uint32_t>& value, int64_t low, int64_t high, const std::string& help);
  void choice(const std::string& names, std::string& value, std::vector<std::string_view> choices, const std::string& help);
  /// auto, cpu, cuda or cuda:N.
  void device(const std::string& names, std::string& value, const std::string& help);
  /// At most one of the two may be given.
  void exclude(const std::string& name, const std::string& other);
  bool is_given(const std::string& name) const;

  /// --config: the options file and the variables are read into `options` before any flag declared later sets a value.
  void config(SessionOptions& options);
  /// --cache-dir, --kernel-dir, --libnvrtc, --bundle, --trust, --tuning, --no-jit: where kernels come from.
  void kernels(SessionOptions& options);
  /// --config, -c, --device, -t, --f32, --kv-type, --sync-launches, --libcuda and those of kernels(): what every verb that opens a session
  /// takes.
  void session(SessionOptions& options);

 private:
  CLI::App* app_;
};

/// How a verb registers itself.
class VerbTable {
 public:
  VerbTable(CLI::App& root, std::chrono::steady_clock::time_point process_start) : root_(&root), process_start_(process_start) {}
  std::chrono::steady_clock::time_point process_start() const { return process_start_; }
  /// Adds a subcommand; `run` returns the process's exit code and throws sj::Error.
  Flags add(const std::string& name, const std::string& help, std::function<int()> run);
  /// Runs the verb that was parsed.
  int run_parsed() const;

 private:
  struct Verb { CLI::App* app; std::function<int()> run; };
  CLI::App* root_;
  std::chrono::steady_clock::time_point process_start_;   ///< for "time to first token" in `run --timings`
  std::vector<Verb> verbs_;
};

void add_run_verb(VerbTable& verbs);
void add_bench_verb(VerbTable& verbs);
void add_score_verb(VerbTable& verbs);
void add_inspect_verb(VerbTable& verbs);
void add_synth_verb(VerbTable& verbs);
void add_cache_verb(VerbTable& verbs);
void add_prewarm_verb(VerbTable& verbs);
void add_bundle_verb(VerbTable& verbs);
void add_tune_verb(VerbTable& verbs);
void add_doctor_verb(VerbTable& verbs);

/// Parses the command line and runs the chosen verb. Help and version go to stdout with exit code 0.
/// Throws kUsage for anything wrong with the flags, otherwise as the verb does.
int run_cli(int argc, const char* const* argv, std::chrono::steady_clock::time_point process_start);

/// The whole of `text` as a number within [low, high]. Throws kUsage naming `flag`, the value and the range.
int64_t parse_integer(std::string_view flag, std::string_view text, int64_t low, int64_t high);
double parse_real(std::string_view flag, std::string_view text, double low, double high);
/// Seconds of "90s", "5m", "1.5h"; from 1 s to a day. Throws kUsage.
double parse_duration(std::string_view flag, std::string_view text);
/// "128,512,4096": a comma-separated list of integers within [low, high]; at least one. Throws kUsage.
std::vector<uint32_t> parse_integer_list(std::string_view flag, std::string_view text, int64_t low, int64_t high);
/// Throws kUsage unless `text` is one of `choices`.
std::string parse_choice(std::string_view flag, std::string_view text, std::span<const std::string_view> choices);
/// auto, cpu, cuda or cuda:N. Throws kUsage.
std::string parse_device(std::string_view flag, std::string_view text);

/// Writes to stdout and flushes; throws kIo when stdout can't take it (disk full, closed).
void write_stdout(std::string_view text);

/// The whole file. Throws kIo naming `path`. "-" is standard input.
std::string read_text_file(const std::string& path);
/// Raw little-endian int32 ids. Throws kIo, or kUsage when the size is not a multiple of 4.
std::vector<TokenId> read_token_file(const std::string& path);

}  // namespace sj
