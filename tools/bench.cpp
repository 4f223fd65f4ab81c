// `sparkjit bench`: tokens per second of prefill and decode, and where a decode step's time goes.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/error.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/kv_cache.h"
#include "tools/bench_report.h"
#include "tools/cli.h"

namespace sj {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchOptions {
  SessionOptions session;
  std::string shape;      // instead of a model file
  SynthOptions synth;
  std::vector<uint32_t> prefill_tokens = {512};
  std::vector<uint32_t> depths = {128};
  uint32_t n_decode = 128;
  uint32_t n_repeats = 5;
  uint32_t n_warmup = 1;
  std::string fill = "prefill";
  std::string format = "md";
  bool per_op = false;
  bool per_launch = false;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Ids that are the same on every machine and touch many rows of the embedding.
std::vector<TokenId> made_up_tokens(uint32_t n_tokens, uint32_t n_vocab) {
  std::vector<TokenId> ids(n_tokens);
  uint32_t state = 1;
  for (TokenId& id : ids) {
    state = state * 1664525u + 1013904223u;
    id = static_cast<TokenId>((state >> 8) % n_vocab);
  }
  return ids;
}

// From the first token fed to the last token's logits on the host.
double prefill_rate(Session& session, uint32_t n_tokens) {
  const std::vector<TokenId> ids = made_up_tokens(n_tokens, session.model().n_vocab);
  session.reset();
  const Clock::time_point start = Clock::now();
  session.feed(ids, false);
  return n_tokens / seconds_since(start);
}

// Puts the first tokens of a context there, by computing them or by declaring random keys and values.
void fill(Session& session, std::span<const TokenId> ids, const std::string& how) {
  constexpr uint32_t kSeed = 1;
  session.reset();
  if (ids.empty()) return;
  if (how == "random") session.fill_context(static_cast<uint32_t>(ids.size()), kSeed);
  else session.feed(ids, false);
}

// Fills the context up to `depth_tokens`, the last of them as the prompt of generate(): so n tokens cost exactly n steps of
// one token, and the clock covers each of them until the host has its id.
double decode_rate(Session& session, uint32_t depth_tokens, uint32_t n_tokens, const std::string& how) {
  const std::vector<TokenId> ids = made_up_tokens(std::max(depth_tokens, 1u), session.model().n_vocab);
  const std::span<const TokenId> all(ids);
  fill(session, all.first(ids.size() - 1), how);
  GenerateOptions options;
  options.max_new_tokens = n_tokens;
  options.sampler.temperature = 0;
  options.stop_at_eog = false;
  uint32_t n_seen = 0;
  const Clock::time_point start = Clock::now();
  session.generate(all.last(1), options, [&](TokenId) { ++n_seen; return true; });
  const double seconds = seconds_since(start);
  if (n_seen != n_tokens)
    throw Error(ErrorKind::kInternal, fmt::format("bench: asked for {} tokens, got {}", n_tokens, n_seen));
  return n_tokens / seconds;
}

// Fails before minutes are spent on the first rows.
void require_rows_fit(const BenchOptions& options, uint32_t max_ctx_tokens) {
  for (const uint32_t n : options.prefill_tokens)
    if (n > max_ctx_tokens)
      throw Error(ErrorKind::kUsage, fmt::format("--prefill: {} tokens don't fit the context of {}; raise --ctx", n, max_ctx_tokens));
  for (const uint32_t depth : options.depths)
    if (options.n_decode > 0 && uint64_t{std::max(depth, 1u)} + options.n_decode > max_ctx_tokens)
      throw Error(ErrorKind::kUsage, fmt::format("--depth: {} + {} tokens don't fit the context of {}; raise --ctx", depth,
                                                 options.n_decode, max_ctx_tokens));
}

uint32_t ctx_tokens_needed(const BenchOptions& options) {
  uint32_t n_tokens = 1;
  for (const uint32_t n : options.prefill_tokens) n_tokens = std::max(n_tokens, n);
  if (options.n_decode > 0)
    for (const uint32_t depth : options.depths) n_tokens = std::max(n_tokens, std::max(depth, 1u) + options.n_decode);
  return n_tokens;
}

BenchRow measure_prefill(Session& session, const BenchOptions& options, uint32_t n_tokens) {
  BenchRow row{.is_prefill = true, .n_tokens = n_tokens};
  for (uint32_t i = 0; i < options.n_warmup; ++i) prefill_rate(session, n_tokens);
  for (uint32_t i = 0; i < options.n_repeats; ++i) row.tokens_per_s.push_back(prefill_rate(session, n_tokens));
  return row;
}

BenchRow measure_decode(Session& session, const BenchOptions& options, uint32_t depth) {
  BenchRow row{.n_tokens = options.n_decode, .depth_tokens = depth};
  for (uint32_t i = 0; i < options.n_warmup; ++i) decode_rate(session, depth, std::min(options.n_decode, 16u), options.fill);
  for (uint32_t i = 0; i < options.n_repeats; ++i) row.tokens_per_s.push_back(decode_rate(session, depth, options.n_decode, options.fill));
  row.bytes_per_token = session.decode_cost(depth + options.n_decode / 2).bytes;   // the mean depth of the measured steps
  row.launches_per_token = session.launches_per_token();
  return row;
}

void measure_ops(Session& session, const BenchOptions& options, BenchRow& row) {
  // At the middle of the measured steps, so that its times are those of their mean.
  fill(session, made_up_tokens(std::max(row.depth_tokens, 1u) + options.n_decode / 2, session.model().n_vocab), options.fill);
  row.ops = session.profile_decode(std::max(options.n_repeats, 5u));
}

std::string op_table(const BenchOptions& options, const BenchSetting& setting, const BenchRow& row) {
  if (row.ops.empty()) return fmt::format("\n{}: this backend can't time single launches\n", row.name());
  return fmt::format("\n{}\n\n{}", row.name(), format_op_table(setting, row.ops, 1e6 / median(row.tokens_per_s), options.per_launch));
}

/// The session, and how its model is called and how many bytes its file has or would have; 0: unknown.
struct BenchModel {
  std::unique_ptr<Session> session;
  std::string name;
  uint64_t weight_bytes = 0;
};

BenchModel open_bench_model(const BenchOptions& options) {
  const std::string& path = options.session.model_path;
  if (options.shape.empty()) {
    std::error_code error;   // the size is decoration
    const uint64_t n_bytes = std::filesystem::file_size(path, error);
    return {open_session(options.session), std::filesystem::path(path).stem().string(), error ? 0 : n_bytes};
  }
  const ShapeFile shape = load_shape(options.shape);
  const uint32_t n_layers = options.synth.n_layers;
  uint64_t n_bytes = 0;   // of the tensors that a file would hold
  const GgufFile file = synthetic_gguf(shape, options.synth);
  for (const TensorInfo& tensor : file.tensors()) n_bytes += tensor.n_bytes;
  return {open_shape_session(options.session, shape, options.synth),
          n_layers == 0 ? shape.name : fmt::format("{} ({} layer{})", shape.name, n_layers, n_layers == 1 ? "" : "s"), n_bytes};
}

int run_bench(BenchOptions options) {
  if (options.session.model_path.empty() == options.shape.empty())
    throw Error(ErrorKind::kUsage, "bench: one of --model and --shape is required");
  if (options.shape.empty() && options.synth.n_layers != 0)
    throw Error(ErrorKind::kUsage, "--layers: a file has the layers it has; only a --shape can do with fewer");
  std::erase(options.prefill_tokens, 0u);
  if (options.session.max_ctx_tokens == 0) options.session.max_ctx_tokens = ctx_tokens_needed(options);
  require_rows_fit(options, options.session.max_ctx_tokens);
  const BenchModel model = open_bench_model(options);
  const std::unique_ptr<Session>& session = model.session;
  require_rows_fit(options, session->max_ctx_tokens());
  const BenchSetting setting{.model = model.name,
                             .architecture = session->model().architecture,
                             .device = session->device_name(),
                             .weight_bytes = model.weight_bytes,
                             .peak_gb_per_s = session->peak_gb_per_s(),
                             .fill = options.fill,
                             .kv_type = std::string(kv_type_name(kv_type_of(options.session)))};
  std::vector<BenchRow> rows;
  for (const uint32_t n_tokens : options.prefill_tokens) rows.push_back(measure_prefill(*session, options, n_tokens));
  if (options.n_decode > 0)
    for (const uint32_t depth : options.depths) rows.push_back(measure_decode(*session, options, depth));
  const bool has_ops = options.per_op || options.per_launch;
  if (has_ops && options.format == "json")
    for (BenchRow& row : rows)
      if (!row.is_prefill) measure_ops(*session, options, row);
  write_stdout(format_rows(setting, rows, options.format));
  if (has_ops && options.format != "json")   // the rows are there before the tables' measurements begin
    for (BenchRow& row : rows)
      if (!row.is_prefill) {
        measure_ops(*session, options, row);
        write_stdout(op_table(options, setting, row));
      }
  return 0;
}

}  // namespace

void add_bench_verb(VerbTable& verbs) {
  const auto options = std::make_shared<BenchOptions>();
  Flags flags = verbs.add("bench", "measure prefill and decode", [options] { return run_bench(*options); });
  flags.text("-m,--model", options->session.model_path, "GGUF file (first part of a split one)", "FILE");
  flags.text("--shape", options->shape,
             fmt::format("no file: random weights made in GPU memory, in the shapes of {}, or of a .toml file", fmt::join(shape_names(), ", ")),
             "NAME");
  flags.integer("--layers", options->synth.n_layers, 0, 4096, "of --shape, how many layers; 0: as the shape says");
  constexpr int64_t kMaxTokens = 1 << 24;
  flags.integers("-p,--prefill", options->prefill_tokens, 0, kMaxTokens, "prompt lengths; 0: none (default 512)");
  flags.integers("-d,--depth", options->depths, 0, kMaxTokens, "tokens in the context when decoding starts (default 128)");
  flags.integer("-n,--n-decode", options->n_decode, 0, kMaxTokens, "tokens to decode; 0: no decode rows (default 128)");
  flags.integer("-r,--repeats", options->n_repeats, 1, 1000, "measured runs a row (default 5)");
  flags.integer("--warmup", options->n_warmup, 0, 1000, "unmeasured runs a row (default 1)");
  flags.choice("--fill", options->fill, {"prefill", "random"},
               "what decode finds in the context: computed tokens (default), or random keys and values, at once and at the same speed");
  flags.choice("-o,--output", options->format, {"md", "json", "csv"}, "how to print the rows (default md)");
  flags.toggle("--per-op", options->per_op, "then the time of each kind of launch of a decode step");
  flags.toggle("--per-launch", options->per_launch, "then the time of each launch of a decode step");
  flags.session(options->session);
}

}  // namespace sj
