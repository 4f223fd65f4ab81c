// `sparkjit run`: a prompt goes in, text streams out.
#include <csignal>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "tools/cli.h"

namespace sj {
namespace {

using Clock = std::chrono::steady_clock;

struct RunOptions {
  SessionOptions session;
  GenerateOptions generate;
  std::string prompt;
  std::string prompt_file;
  bool ignore_eog = false;
  bool show_special = false;
  bool timings = false;
};

volatile std::sig_atomic_t g_is_interrupted = 0;

// First Ctrl-C: stop after the token in flight. A second one ends the process at once.
void on_interrupt(int) {
  g_is_interrupted = 1;
  std::signal(SIGINT, SIG_DFL);
}

double elapsed_ms(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

std::string require_prompt(const RunOptions& options) {
  if (options.prompt_file.empty() && options.prompt.empty())
    throw Error(ErrorKind::kUsage, "run: no text to continue; give --prompt or --file");
  if (!options.prompt_file.empty()) return read_text_file(options.prompt_file);
  if (options.prompt == "-") return read_text_file("-");
  return options.prompt;
}

std::vector<TokenId> encode_prompt(const Session& session, const std::string& prompt) {
  const Tokenizer* tokenizer = session.tokenizer();
  if (tokenizer == nullptr)
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: the file has no vocabulary, so there is no text to run; "
                                                     "`sparkjit score --tokens` takes token ids", session.model().file_path));
  std::vector<TokenId> ids = tokenizer->encode(prompt);
  if (ids.empty() && tokenizer->bos()) ids.push_back(*tokenizer->bos());
  if (ids.empty()) throw Error(ErrorKind::kUsage, "--prompt: the text is empty and the model has no start token");
  if (ids.size() >= session.max_ctx_tokens())
    throw Error(ErrorKind::kUsage, fmt::format("--prompt: {} tokens don't leave room for an answer in a context of {}; raise --ctx",
                                               ids.size(), session.max_ctx_tokens()));
  return ids;
}

void print_timings(const Session& session, const GenerateStats& stats, double first_token_ms, double total_ms) {
  const LoadTimings& load = session.timings();
  const auto line = [](const std::string& text) { fmt::print(stderr, "# run: {}\n", text); };
  const auto rate = [](uint32_t n_tokens, double us) { return us > 0 ? n_tokens * 1e6 / us : 0.0; };
  line(fmt::format("device {}", session.device_name()));
  line(fmt::format("load {:.1f} ms: open {:.1f}, describe {:.1f}, compile {:.1f}, modules {:.1f}, weights {:.1f}",
                   load.ready_us / 1e3, load.open_us / 1e3, load.describe_us / 1e3, load.compile_us / 1e3,
                   load.module_load_us / 1e3, load.upload_us / 1e3));
  line(fmt::format("kernels {}: {} compiled in {:.2f} s on {} threads, {} from the cache, {} from bundles", load.n_kernels, load.n_compiled,
                   load.compile_us / 1e6, load.compile_threads, load.n_from_disk, load.n_from_bundle));
  line(fmt::format("prompt {} tokens in {:.1f} ms ({:.1f} tok/s)", stats.n_prompt_tokens, stats.prompt_us / 1e3,
                   rate(stats.n_prompt_tokens, stats.prompt_us)));
  line(fmt::format("decode {} tokens in {:.1f} ms ({:.1f} tok/s)", stats.n_new_tokens, stats.decode_us / 1e3,
                   rate(stats.n_new_tokens, stats.decode_us)));
  if (stats.n_new_tokens > 0)
    line(fmt::format("first token {:.1f} ms after process start ({:.1f} ms without weight upload)", first_token_ms,
                     first_token_ms - load.upload_us / 1e3));
  line(fmt::format("total {:.1f} ms", total_ms));
}

int run_run(const RunOptions& options, Clock::time_point process_start) {
  const std::string prompt = require_prompt(options);   // before the model: a missing file should not cost a load
  const std::unique_ptr<Session> session = open_session(options.session);
  const std::vector<TokenId> ids = encode_prompt(*session, prompt);

  GenerateOptions generate = options.generate;
  generate.stop_at_eog = !options.ignore_eog;
  Utf8Stream stream;
  Clock::time_point first_token{};
  std::signal(SIGINT, on_interrupt);
  const GenerateStats stats = session->generate(ids, generate, [&](TokenId id) {
    if (first_token == Clock::time_point{}) first_token = Clock::now();
    write_stdout(stream.push(session->tokenizer()->piece(id, options.show_special)));
    return g_is_interrupted == 0;
  });
  write_stdout(stream.finish() + "\n");
  if (options.timings)
    print_timings(*session, stats, elapsed_ms(process_start, first_token), elapsed_ms(process_start, Clock::now()));
  constexpr int kEndedBySigint = 128 + SIGINT;
  return g_is_interrupted != 0 ? kEndedBySigint : 0;
}

}  // namespace

void add_run_verb(VerbTable& verbs) {
  const auto options = std::make_shared<RunOptions>();
  Flags flags = verbs.add("run", "generate text from a prompt",
                          [options, start = verbs.process_start()] { return run_run(*options, start); });
  flags.required_text("-m,--model", options->session.model_path, "GGUF file (first part of a split one)", "FILE");
  flags.text("-p,--prompt", options->prompt, "the text to continue; '-' reads standard input", "TEXT");
  flags.text("-f,--file", options->prompt_file, "the text to continue, from a file", "FILE");
  flags.exclude("--prompt", "--file");
  flags.integer("-n,--n-predict", options->generate.max_new_tokens, 0, 1 << 24, "most tokens to generate (default 128)");
  SamplerOptions& sampler = options->generate.sampler;
  flags.real("--temp", sampler.temperature, 0, 100, "temperature; 0: always the likeliest token (default 0.8)");
  flags.integer("--top-k", sampler.top_k, 0, 1 << 24, "keep the k likeliest; 0: all (default 40)");
  flags.real("--top-p", sampler.top_p, 0, 1, "keep the likeliest up to this much probability; 1: all (default 0.95)");
  flags.real("--min-p", sampler.min_p, 0, 1, "drop what is less likely than this part of the likeliest; 0: none (default 0.05)");
  flags.real("--repeat-penalty", sampler.repeat_penalty, 0.01, 100, "weaken recent tokens by this factor; 1: off (default 1)");
  flags.real("--frequency-penalty", sampler.frequency_penalty, -100, 100, "taken off a logit for each recent use (default 0)");
  flags.real("--presence-penalty", sampler.presence_penalty, -100, 100, "taken off a logit once if used recently (default 0)");
  flags.integer("--penalty-last-n", sampler.penalty_last_n, -1, 1 << 24, "how many tokens are recent; -1: all (default 64)");
  flags.integer("--seed", sampler.seed, 0, 0xFFFFFFFFll, "of the draws; 4294967295: random (the default)");
  flags.toggle("--ignore-eog", options->ignore_eog, "go on after an end-of-generation token");
  flags.toggle("--special", options->show_special, "print control tokens");
  flags.toggle("--timings", options->timings, "print what loading and generating cost to stderr");
  flags.session(options->session);
}

}  // namespace sj
