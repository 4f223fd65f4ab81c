#include "tools/cli.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/error.h"
#include "runtime/options_file.h"

namespace sj {
namespace {

// The name people know an option by: the last of "-c,--ctx".
std::string long_name(const std::string& flags) { return flags.substr(flags.rfind(',') + 1); }

template <class Number>
bool parse_whole(std::string_view text, Number& value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// CLI11 hands over the text as given; `parse` turns it into the value or throws.
template <class Value, class Parse>
void add_parsed(CLI::App& app, const std::string& names, Value& value, const std::string& help, const std::string& type, Parse parse) {
  const auto set = [&value, name = long_name(names), parse](const std::string& text) { value = static_cast<Value>(parse(name, text)); };
  app.add_option_function<std::string>(names, set, help)->type_name(type);
}

template <class Integer>
void add_parsed_integer(CLI::App& app, const std::string& names, Integer& value, int64_t low, int64_t high, const std::string& help) {
  add_parsed(app, names, value, help, "N", [low, high](const std::string& name, const std::string& text) {
    return parse_integer(name, text, low, high);
  });
}

}  // namespace

int64_t parse_integer(std::string_view flag, std::string_view text, int64_t low, int64_t high) {
  int64_t value = 0;
  if (!parse_whole(text, value) || value < low || value > high)
    throw Error(ErrorKind::kUsage, fmt::format("{}: '{}' is not a whole number from {} to {}", flag, text, low, high));
  return value;
}

double parse_real(std::string_view flag, std::string_view text, double low, double high) {
  double value = 0;
  if (!parse_whole(text, value) || !(value >= low && value <= high))   // NaN fails both comparisons
    throw Error(ErrorKind::kUsage, fmt::format("{}: '{}' is not a number from {} to {}", flag, text, low, high));
  return value;
}

double parse_duration(std::string_view flag, std::string_view text) {
  constexpr double kDayS = 86400;
  const double unit_s = text.ends_with('s') ? 1 : text.ends_with('m') ? 60 : text.ends_with('h') ? 3600 : 0;
  double value = 0;
  if (unit_s == 0 || !parse_whole(text.substr(0, text.size() - 1), value) || !(value * unit_s >= 1 && value * unit_s <= kDayS))
    throw Error(ErrorKind::kUsage, fmt::format("{}: '{}' is not a time from 1s to 24h, as in 90s, 5m, 1h", flag, text));
  return value * unit_s;
}

std::vector<uint32_t> parse_integer_list(std::string_view flag, std::string_view text, int64_t low, int64_t high) {
  std::vector<uint32_t> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    values.push_back(static_cast<uint32_t>(parse_integer(flag, text.substr(begin, end - begin), low, high)));
    begin = end + 1;
  }
  return values;
}

std::string parse_choice(std::string_view flag, std::string_view text, std::span<const std::string_view> choices) {
  for (const std::string_view choice : choices)
    if (choice == text) return std::string(text);
  throw Error(ErrorKind::kUsage, fmt::format("{}: '{}' is not one of {}", flag, text, fmt::join(choices, ", ")));
}

std::string parse_device(std::string_view flag, std::string_view text) {
  constexpr std::string_view kPrefix = "cuda:";
  uint32_t index = 0;
  const bool is_indexed = text.starts_with(kPrefix) && text.size() > kPrefix.size() &&
                          parse_whole(text.substr(kPrefix.size()), index) && text[kPrefix.size()] != '+';
  if (text == "auto" || text == "cpu" || text == "cuda" || is_indexed) return std::string(text);
  throw Error(ErrorKind::kUsage, fmt::format("{}: '{}' is not one of auto, cpu, cuda, cuda:N", flag, text));
}

void Flags::text(const std::string& names, std::string& value, const std::string& help, const std::string& type) {
  app_->add_option(names, value, help)->type_name(type);
}

void Flags::texts(const std::string& names, std::vector<std::string>& values, const std::string& help, const std::string& type) {
  const auto set = [&values](const std::vector<std::string>& given) { values = given; };
  app_->add_option_function<std::vector<std::string>>(names, set, help)->type_name(type)->allow_extra_args(false);
}

void Flags::required_text(const std::string& names, std::string& value, const std::string& help, const std::string& type) {
  app_->add_option(names, value, help)->type_name(type)->required();
}

void Flags::required_positional(const std::string& name, std::string& value, const std::string& help) {
  app_->add_option(name, value, help)->required();
}

void Flags::required_positionals(const std::string& name, std::vector<std::string>& values, const std::string& help) {
  app_->add_option(name, values, help)->required();
}

void Flags::toggle(const std::string& names, bool& value, const std::string& help) { app_->add_flag(names, value, help); }

void Flags::integer(const std::string& names, int32_t& value, int64_t low, int64_t high, const std::string& help) {
  add_parsed_integer(*app_, names, value, low, high, help);
}

void Flags::integer(const std::string& names, uint32_t& value, int64_t low, int64_t high, const std::string& help) {
  add_parsed_integer(*app_, names, value, low, high, help);
}

void Flags::integer(const std::string& names, uint64_t& value, int64_t low, int64_t high, const std::string& help) {
  add_parsed_integer(*app_, names, value, low, high, help);
}

void Flags::real(const std::string& names, float& value, double low, double high, const std::string& help) {
  add_parsed(*app_, names, value, help, "X", [low, high](const std::string& name, const std::string& text) {
    return parse_real(name, text, low, high);
  });
}

void Flags::integers(const std::string& names, std::vector<uint32_t>& value, int64_t low, int64_t high, const std::string& help) {
  add_parsed(*app_, names, value, help, "N,N,...", [low, high](const std::string& name, const std::string& text) {
    return parse_integer_list(name, text, low, high);
  });
}

void Flags::choice(const std::string& names, std::string& value, std::vector<std::string_view> choices, const std::string& help) {
  const std::string type = fmt::format("{}", fmt::join(choices, "|"));
  add_parsed(*app_, names, value, help, type, [choices = std::move(choices)](const std::string& name, const std::string& text) {
    return parse_choice(name, text, choices);
  });
}

void Flags::device(const std::string& names, std::string& value, const std::string& help) {
  add_parsed(*app_, names, value, help, "auto|cpu|cuda|cuda:N", parse_device);
}

void Flags::exclude(const std::string& name, const std::string& other) {
  app_->get_option(name)->excludes(app_->get_option(other));
}

bool Flags::is_given(const std::string& name) const { return app_->count(name) > 0; }

void Flags::config(SessionOptions& options) {
  const auto apply = [&options](const std::string& path) { apply_config(path, read_environment(), options); };
  // Values are set in the order of declaration, and this one's also when it isn't given.
  app_->add_option_function<std::string>("--config", apply, "options file (default $XDG_CONFIG_HOME/sparkjit/config.toml; none: no file)")
      ->type_name("FILE")->force_callback();
}

void Flags::session(SessionOptions& options) {
  options.show_progress = isatty(STDERR_FILENO) == 1;
  config(options);
  integer("-c,--ctx", options.max_ctx_tokens, 0, 1 << 24, "context in tokens; 0: the model's own, at most 4096");
  device("--device", options.device, "where to compute (default auto: the first GPU, else the CPU)");
  integer("-t,--threads", options.n_threads, 0, 4096, "threads of the CPU backend, compiler and loader; 0: all cores");
  const auto set_f32 = [&options](int64_t count) { options.activations = count > 0 ? ActivationMode::kF32 : ActivationMode::kAuto; };
  app_->add_flag_function("--f32", set_f32, "float32 activations everywhere: slower, for comparisons");
  choice("--kv-type", options.kv_type, {"f16", "q8_0"}, "how keys and values are cached (default f16); q8_0 takes about half the memory");
  toggle("--sync-launches", options.sync_launches, "wait for every launch, so that a failing one is named; slow");
  text("--libcuda", options.libcuda_path, "driver library to open instead of libcuda.so.1", "FILE");
  kernels(options);
}

void Flags::kernels(SessionOptions& options) {
  text("--cache-dir", options.cache_dir, "compiled kernels are kept here", "DIR");
  text("--kernel-dir", options.kernel_dir, "kernel texts from here instead of the embedded ones", "DIR");
  text("--libnvrtc", options.libnvrtc_path, "compiler library to open instead of libnvrtc.so.13 or .12", "FILE");
  texts("--bundle", options.bundle_paths, "kernels that `sparkjit prewarm` compiled ahead; may be given several times", "FILE");
  text("--trust", options.trust_path, "load only bundles signed by a key in here", "FILE");
  text("--tuning", options.tuning_path, "tile sizes that `sparkjit tune` found; shipped: only what is built in; none: defaults", "FILE");
  app_->add_flag_function("--no-jit", [&options](int64_t count) { options.may_compile = count == 0; },
                          "a kernel that is neither bundled nor cached is an error, not compiled");
}

Flags VerbTable::add(const std::string& name, const std::string& help, std::function<int()> run) {
  CLI::App* app = root_->add_subcommand(name, help);
  verbs_.push_back({app, std::move(run)});
  return Flags(*app);
}

int VerbTable::run_parsed() const {
  for (const Verb& verb : verbs_)
    if (verb.app->parsed()) return verb.run();
  throw Error(ErrorKind::kInternal, "a verb was parsed but has no action");
}

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw Error(ErrorKind::kIo, fmt::format("stdout: can't write: {}", std::strerror(errno)));
}

std::string read_text_file(const std::string& path) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Error(ErrorKind::kIo, fmt::format("{}: can't open: {}", path, std::strerror(errno)));
  std::string text;
  char buffer[1 << 16];
  for (size_t n_read = 0; (n_read = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n_read);
  const bool has_failed = std::ferror(file) != 0;
  const int error = errno;
  if (file != stdin) std::fclose(file);
  if (has_failed) throw Error(ErrorKind::kIo, fmt::format("{}: can't read: {}", path, std::strerror(error)));
  return text;
}

std::vector<TokenId> read_token_file(const std::string& path) {
  const std::string bytes = read_text_file(path);
  if (bytes.size() % sizeof(TokenId) != 0)
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} bytes are not a whole number of int32 token ids", path, bytes.size()));
  std::vector<TokenId> ids(bytes.size() / sizeof(TokenId));
  std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

int run_cli(int argc, const char* const* argv, std::chrono::steady_clock::time_point process_start) {
  drop_compiler_variables();
  CLI::App root("sparkjit: runs GGUF language models; GPU kernels are compiled for your card when a model is loaded");
  root.name("sparkjit");
  root.set_version_flag("--version", std::string("sparkjit " SPARKJIT_VERSION));
  root.require_subcommand(1);
  VerbTable verbs(root, process_start);
  add_run_verb(verbs);
  add_bench_verb(verbs);
  add_score_verb(verbs);
  add_inspect_verb(verbs);
  add_synth_verb(verbs);
  add_cache_verb(verbs);
  add_prewarm_verb(verbs);
  add_bundle_verb(verbs);
  add_tune_verb(verbs);
  add_doctor_verb(verbs);

  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& help) {   // --help, --version
    return root.exit(help);
  } catch (const CLI::ParseError& error) {
    // A mistyped verb is left over, and CLI11 only says that there is none.
    const std::vector<std::string> unknown = root.remaining();
    if (root.get_subcommands().empty() && !unknown.empty())
      throw Error(ErrorKind::kUsage, fmt::format("unknown verb or flag '{}'; see `sparkjit --help`", unknown.front()));
    throw Error(ErrorKind::kUsage, fmt::format("{}; see `sparkjit --help`", error.what()));
  }
  return verbs.run_parsed();
}

}  // namespace sj
