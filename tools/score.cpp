// `sparkjit score`: feeds a given token sequence and judges the logits, without sampling. Logits of another program on the same
// tokens can be judged alike.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "tools/cli.h"
#include "tools/score_stats.h"

namespace sj {
namespace {

struct ScoreOptions {
  SessionOptions session;
  std::string tokens_path, text_path, logits_path, reference_path, judged_path;
  std::vector<uint32_t> chunks = {128};
  std::string format = "text";
};

// A stdio file whose every failure is an Error that names it.
class RawFile {
 public:
  RawFile(const std::string& path, const char* mode) : path_(path), file_(std::fopen(path.c_str(), mode)) {
    if (file_ == nullptr) fail("open");
  }
  ~RawFile() { if (file_ != nullptr) std::fclose(file_); }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  void write(std::span<const float> values) {
    if (std::fwrite(values.data(), sizeof(float), values.size(), file_) != values.size()) fail("write");
  }
  void read(std::span<float> values) {
    if (std::fread(values.data(), sizeof(float), values.size(), file_) != values.size()) fail("read");
  }
  void close() {
    std::FILE* file = std::exchange(file_, nullptr);
    if (std::fclose(file) != 0) fail("write");
  }

 private:
  [[noreturn]] void fail(const char* verb) const {
    throw Error(ErrorKind::kIo, fmt::format("{}: can't {}: {}", path_, verb, std::strerror(errno)));
  }
  std::string path_;
  std::FILE* file_;
};

std::vector<TokenId> require_tokens(const ScoreOptions& options, const ModelDesc& model, const Tokenizer* tokenizer) {
  std::vector<TokenId> ids;
  if (!options.tokens_path.empty()) {
    ids = read_token_file(options.tokens_path);
  } else {
    if (tokenizer == nullptr)
      throw Error(ErrorKind::kUnsupported, fmt::format("{}: the file has no vocabulary; use --tokens", model.file_path));
    ids = tokenizer->encode(read_text_file(options.text_path), {.parse_special = false});
  }
  const std::string& path = options.tokens_path.empty() ? options.text_path : options.tokens_path;
  if (ids.empty()) throw Error(ErrorKind::kUsage, fmt::format("{}: no tokens", path));
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= model.n_vocab)
      throw Error(ErrorKind::kUsage,
                  fmt::format("{}: token {} is {}; the vocabulary ends at {}", path, i, ids[i], model.n_vocab - 1));
  return ids;
}

void require_context(const ScoreOptions& options, size_t n_tokens, uint32_t max_ctx_tokens) {
  if (n_tokens > max_ctx_tokens)
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} tokens don't fit the context of {}; raise --ctx",
                                               options.tokens_path.empty() ? options.text_path : options.tokens_path, n_tokens,
                                               max_ctx_tokens));
}

void require_logits_size(const std::string& path, uint64_t n_rows, uint64_t n_vocab) {
  std::error_code error;
  const uint64_t n_bytes = std::filesystem::file_size(path, error);
  if (error) throw Error(ErrorKind::kIo, fmt::format("{}: can't open: {}", path, error.message()));
  if (n_bytes != n_rows * n_vocab * sizeof(float))
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} bytes; {} tokens x {} logits of float32 are {}", path, n_bytes, n_rows,
                                               n_vocab, n_rows * n_vocab * sizeof(float)));
}

// A token file needs no model to be counted; for a text the model's own default applies.
void size_context(ScoreOptions& options) {
  if (options.session.max_ctx_tokens != 0 || options.tokens_path.empty() || options.tokens_path == "-") return;
  options.session.max_ctx_tokens = static_cast<uint32_t>(std::max<size_t>(read_token_file(options.tokens_path).size(), 1));
}

/// The float64 reference is computed by the CPU backend only; "auto" means it then.
void choose_double(SessionOptions& session) {
  if (!session.cpu_double) return;
  if (session.device == "auto") session.device = "cpu";
  if (session.device != "cpu")
    throw Error(ErrorKind::kUsage, fmt::format("--f64: float64 is computed on the CPU only, and --device is {}", session.device));
}

/// Judges rows as they come; keeps none.
class Judge {
 public:
  Judge(const ScoreOptions& options, std::vector<TokenId> ids, size_t n_vocab)
      : ids_(std::move(ids)), n_vocab_(n_vocab), reference_row_(n_vocab) {
    if (options.reference_path.empty()) return;
    require_logits_size(options.reference_path, ids_.size(), n_vocab);
    reference_ = std::make_unique<RawFile>(options.reference_path, "rb");
  }

  std::span<const TokenId> ids() const { return ids_; }
  const ScoreStats& stats() const { return stats_; }

  /// logits: [n, n_vocab] of the tokens that follow the ones judged so far.
  void add(std::span<const float> logits) {
    for (size_t at = 0; at < logits.size(); at += n_vocab_) {
      const std::span<const float> row = logits.subspan(at, n_vocab_);
      const uint64_t next = stats_.n_rows() + 1;
      stats_.add(row, next < ids_.size() ? ids_[next] : -1);
      if (!reference_) continue;
      reference_->read(reference_row_);
      stats_.compare(row, reference_row_);
    }
  }

 private:
  std::vector<TokenId> ids_;
  size_t n_vocab_;
  std::vector<float> reference_row_;
  std::unique_ptr<RawFile> reference_;
  ScoreStats stats_;
};

/// Rows of the file --logits-in; the model only says how long they are.
void judge_file(const ScoreOptions& options, Judge& judge, size_t n_vocab) {
  require_logits_size(options.judged_path, judge.ids().size(), n_vocab);
  RawFile file(options.judged_path, "rb");
  std::vector<float> row(n_vocab);
  for (size_t i = 0; i < judge.ids().size(); ++i) {
    file.read(row);
    judge.add(row);
  }
}

void judge_session(const ScoreOptions& options, Judge& judge, Session& session) {
  const std::span<const TokenId> ids = judge.ids();
  const size_t n_vocab = session.model().n_vocab;
  std::unique_ptr<RawFile> output;
  if (!options.logits_path.empty()) output = std::make_unique<RawFile>(options.logits_path, "wb");
  size_t chunk_idx = 0;
  for (size_t begin = 0; begin < ids.size();) {
    const size_t wanted = options.chunks[std::min(chunk_idx++, options.chunks.size() - 1)];
    const size_t n_tokens = std::min(wanted, ids.size() - begin);
    const std::vector<float> logits = session.feed(ids.subspan(begin, n_tokens), true);
    if (logits.size() != n_tokens * n_vocab)
      throw Error(ErrorKind::kInternal, fmt::format("score: {} logits for {} tokens", logits.size(), n_tokens));
    if (output) output->write(logits);
    judge.add(logits);
    begin += n_tokens;
  }
  if (output) output->close();
}

ScoreStats score_file(const ScoreOptions& options) {
  const GgufFile file = open_gguf(options.session.model_path);
  const ModelDesc model = describe_model(file);
  std::optional<Tokenizer> tokenizer;
  if (options.tokens_path.empty() && Tokenizer::has_vocab(file)) tokenizer = Tokenizer::from_gguf(file);
  Judge judge(options, require_tokens(options, model, tokenizer ? &*tokenizer : nullptr), model.n_vocab);
  judge_file(options, judge, model.n_vocab);
  return judge.stats();
}

ScoreStats score_session(const ScoreOptions& options) {
  const std::unique_ptr<Session> session = open_session(options.session);
  std::vector<TokenId> ids = require_tokens(options, session->model(), session->tokenizer());
  require_context(options, ids.size(), session->max_ctx_tokens());
  Judge judge(options, std::move(ids), session->model().n_vocab);
  judge_session(options, judge, *session);
  return judge.stats();
}

int run_score(ScoreOptions options) {
  options.session.expect_all_logits = true;
  if (options.tokens_path.empty() && options.text_path.empty())
    throw Error(ErrorKind::kUsage, "score: one of --tokens and --text is required");
  choose_double(options.session);
  size_context(options);
  write_stdout(format_score(options.judged_path.empty() ? score_session(options) : score_file(options), options.format));
  return 0;
}

}  // namespace

void add_score_verb(VerbTable& verbs) {
  const auto options = std::make_shared<ScoreOptions>();
  Flags flags = verbs.add("score", "logits and perplexity of a given text", [options] { return run_score(*options); });
  flags.required_text("-m,--model", options->session.model_path, "GGUF file (first part of a split one)", "FILE");
  flags.text("--tokens", options->tokens_path, "raw int32 token ids", "FILE");
  flags.text("--text", options->text_path, "text; '-' reads standard input", "FILE");
  flags.exclude("--tokens", "--text");
  flags.text("--logits-out", options->logits_path, "write raw float32 logits [tokens, vocabulary] here", "FILE");
  flags.text("--reference", options->reference_path, "compare with logits of that form: top-1, KL(reference || these)", "FILE");
  flags.text("--logits-in", options->judged_path, "judge logits of that form, of whatever made them, instead of computing", "FILE");
  flags.exclude("--logits-in", "--logits-out");
  flags.toggle("--f64", options->session.cpu_double, "float64 on the CPU, KV cache included: the reference; slow");
  flags.integers("--chunks", options->chunks, 1, 1 << 24, "tokens to feed at a time; the last number repeats (default 128)");
  flags.choice("-o,--output", options->format, {"text", "json"}, "how to print the figures (default text)");
  flags.session(options->session);
}

}  // namespace sj
