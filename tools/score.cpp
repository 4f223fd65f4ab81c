// `sparkjit score`: feeds a given token sequence and judges the logits, without sampling.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "tools/cli.h"
#include "tools/score_stats.h"

namespace sj {
namespace {

struct ScoreOptions {
  SessionOptions session;
  std::string tokens_path, text_path, logits_path, reference_path;
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

std::vector<TokenId> require_tokens(const ScoreOptions& options, const Session& session) {
  std::vector<TokenId> ids;
  if (!options.tokens_path.empty()) {
    ids = read_token_file(options.tokens_path);
  } else {
    if (session.tokenizer() == nullptr)
      throw Error(ErrorKind::kUnsupported, fmt::format("{}: the file has no vocabulary; use --tokens", session.model().file_path));
    ids = session.tokenizer()->encode(read_text_file(options.text_path), {.parse_special = false});
  }
  const std::string& path = options.tokens_path.empty() ? options.text_path : options.tokens_path;
  if (ids.empty()) throw Error(ErrorKind::kUsage, fmt::format("{}: no tokens", path));
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= session.model().n_vocab)
      throw Error(ErrorKind::kUsage, fmt::format("{}: token {} is {}; the vocabulary ends at {}", path, i, ids[i],
                                                 session.model().n_vocab - 1));
  if (ids.size() > session.max_ctx_tokens())
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} tokens don't fit the context of {}; raise --ctx", path, ids.size(),
                                               session.max_ctx_tokens()));
  return ids;
}

void require_reference_size(const std::string& path, uint64_t n_rows, uint64_t n_vocab) {
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

int run_score(ScoreOptions options) {
  options.session.expect_all_logits = true;
  if (options.tokens_path.empty() && options.text_path.empty())
    throw Error(ErrorKind::kUsage, "score: one of --tokens and --text is required");
  size_context(options);
  const std::unique_ptr<Session> session = open_session(options.session);
  const std::vector<TokenId> ids = require_tokens(options, *session);
  const size_t n_vocab = session->model().n_vocab;
  std::unique_ptr<RawFile> output, reference;
  if (!options.reference_path.empty()) {
    require_reference_size(options.reference_path, ids.size(), n_vocab);
    reference = std::make_unique<RawFile>(options.reference_path, "rb");
  }
  if (!options.logits_path.empty()) output = std::make_unique<RawFile>(options.logits_path, "wb");

  ScoreStats stats;
  std::vector<float> reference_row(n_vocab);
  size_t chunk_idx = 0;
  for (size_t begin = 0; begin < ids.size();) {
    const size_t wanted = options.chunks[std::min(chunk_idx++, options.chunks.size() - 1)];
    const size_t n_tokens = std::min(wanted, ids.size() - begin);
    const std::vector<float> logits = session->feed(std::span(ids).subspan(begin, n_tokens), true);
    if (logits.size() != n_tokens * n_vocab)
      throw Error(ErrorKind::kInternal, fmt::format("score: {} logits for {} tokens", logits.size(), n_tokens));
    if (output) output->write(logits);
    for (size_t t = 0; t < n_tokens; ++t) {
      const std::span<const float> row = std::span(logits).subspan(t * n_vocab, n_vocab);
      const size_t next = begin + t + 1;
      stats.add(row, next < ids.size() ? ids[next] : -1);
      if (reference) {
        reference->read(reference_row);
        stats.compare(row, reference_row);
      }
    }
    begin += n_tokens;
  }
  if (output) output->close();
  write_stdout(format_score(stats, options.format));
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
  flags.text("--reference", options->reference_path, "compare with logits of that form", "FILE");
  flags.integers("--chunks", options->chunks, 1, 1 << 24, "tokens to feed at a time; the last number repeats (default 128)");
  flags.choice("-o,--output", options->format, {"text", "json"}, "how to print the figures (default text)");
  flags.session(options->session);
}

}  // namespace sj
