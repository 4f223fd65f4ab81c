#include "runtime/cpu/cpu_backend.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "runtime/cpu/interpreter.h"
#include "runtime/cpu/thread_pool.h"

namespace sj {
namespace {

constexpr uint32_t kDefaultCtxTokens = 4096;

CpuOptions resolve(CpuOptions options, const ModelDesc& model) {
  if (options.max_ctx_tokens == 0) options.max_ctx_tokens = std::min(model.trained_ctx_tokens, kDefaultCtxTokens);
  if (options.block_tokens == 0) throw Error(ErrorKind::kUsage, "CPU backend: a block of 0 tokens");
  return options;
}

}  // namespace

struct CpuBackend::Impl {
  ModelDesc model;
  CpuOptions options;
  ThreadPool pool;
  std::unique_ptr<Interpreter> interpreter;
  uint32_t n_past = 0;

  Impl(const GgufFile& file, const ModelDesc& desc, const CpuOptions& opts)
      : model(desc), options(resolve(opts, desc)), pool(opts.n_threads),
        interpreter(make_interpreter(file, model, pool, options)) {}

  void check(std::span<const TokenId> tokens) const {
    if (tokens.empty()) throw Error(ErrorKind::kUsage, "there are no tokens to feed");
    if (tokens.size() > options.max_ctx_tokens - n_past)
      throw Error(ErrorKind::kUsage, fmt::format("{} tokens do not fit the context: {} of {} are in use", tokens.size(), n_past,
                                                 options.max_ctx_tokens));
    for (TokenId id : tokens)
      if (id < 0 || uint32_t(id) >= model.n_vocab)
        throw Error(ErrorKind::kUsage, fmt::format("token id {}: expected 0..{}", id, model.n_vocab - 1));
  }
};

CpuBackend::CpuBackend(const GgufFile& file, const ModelDesc& model, const CpuOptions& options)
    : impl_(std::make_unique<Impl>(file, model, options)) {}
CpuBackend::CpuBackend(CpuBackend&&) noexcept = default;
CpuBackend& CpuBackend::operator=(CpuBackend&&) noexcept = default;
CpuBackend::~CpuBackend() = default;

void CpuBackend::reset() { impl_->n_past = 0; }
uint32_t CpuBackend::n_past() const { return impl_->n_past; }
uint32_t CpuBackend::max_ctx_tokens() const { return impl_->options.max_ctx_tokens; }
uint32_t CpuBackend::n_threads() const { return impl_->pool.n_threads(); }
const ModelDesc& CpuBackend::model() const { return impl_->model; }

std::vector<float> CpuBackend::feed(std::span<const TokenId> tokens, bool all_logits) {
  impl_->check(tokens);
  const uint64_t n_vocab = impl_->model.n_vocab;
  std::vector<float> logits((all_logits ? tokens.size() : 1) * n_vocab);
  uint32_t position = impl_->n_past;
  for (size_t begin = 0; begin < tokens.size();) {
    const size_t n = std::min<size_t>(impl_->options.block_tokens, tokens.size() - begin);
    const bool is_last = begin + n == tokens.size();
    const LogitRows which = all_logits ? LogitRows::kAll : (is_last ? LogitRows::kLast : LogitRows::kNone);
    impl_->interpreter->run_step(tokens.subspan(begin, n), position, which, logits.data() + (all_logits ? begin * n_vocab : 0));
    begin += n;
    position += uint32_t(n);
  }
  impl_->n_past = position;   // only now: a step that threw has appended nothing
  return logits;
}

}  // namespace sj
