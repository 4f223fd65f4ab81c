#include <thread>
#include <utility>

#include <fmt/format.h>

#include "jit/base/log.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/kv_cache.h"
#include "runtime/opened_model.h"

namespace sj {
namespace {

CpuKvType cpu_kv_type(const SessionOptions& options) {
  const KvType type = kv_type_of(options);
  if (type == KvType::kQ8_0) return CpuKvType::kQ8_0;
  return options.cpu_double || type == KvType::kF32 ? CpuKvType::kExact : CpuKvType::kF16;
}

class CpuSession : public Session {
 public:
  CpuSession(const SessionOptions& options, OpenedModel opened)
      : opened_(std::move(opened)),
        backend_(opened_.file, opened_.model,
                 {.n_threads = options.n_threads,
                  .max_ctx_tokens = context_tokens(opened_.model, options.max_ctx_tokens),
                  .use_double = options.cpu_double,
                  .kv_type = cpu_kv_type(options)}) {
    opened_.timings.ready_us = elapsed_us(opened_.start);
  }

  const ModelDesc& model() const override { return opened_.model; }
  const Tokenizer* tokenizer() const override { return opened_.tokenizer ? &*opened_.tokenizer : nullptr; }
  uint32_t max_ctx_tokens() const override { return backend_.max_ctx_tokens(); }
  uint32_t n_past() const override { return backend_.n_past(); }
  std::string device_name() const override { return fmt::format("CPU, {} threads", backend_.n_threads()); }
  const LoadTimings& timings() const override { return opened_.timings; }
  void reset() override { backend_.reset(); }

  std::vector<float> feed(std::span<const TokenId> tokens, bool all_logits) override {
    require_tokens_fit(model(), tokens, n_past(), max_ctx_tokens());
    return backend_.feed(tokens, all_logits);
  }

  GenerateStats generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                         const std::function<bool(TokenId)>& on_token) override {
    Sampler sampler(options.sampler);
    for (TokenId id : prompt) sampler.accept(id);
    GenerateStats stats{.n_prompt_tokens = static_cast<uint32_t>(prompt.size())};
    const Clock::time_point start = Clock::now();
    std::vector<float> logits = feed(prompt, false);
    stats.prompt_us = elapsed_us(start);
    const uint32_t n_max = n_tokens_to_sample(options, n_past(), max_ctx_tokens());
    const Clock::time_point decode_start = Clock::now();
    while (stats.n_new_tokens < n_max) {
      const TokenId id = sampler.sample(logits);
      if (options.stop_at_eog && tokenizer() != nullptr && tokenizer()->is_eog(id)) break;
      sampler.accept(id);
      ++stats.n_new_tokens;
      if (!on_token(id) || stats.n_new_tokens == n_max) break;
      logits = backend_.feed({&id, 1}, false);
    }
    stats.decode_us = elapsed_us(decode_start);
    return stats;
  }

 private:
  OpenedModel opened_;
  CpuBackend backend_;   // reads the mapping of opened_.file
};

}  // namespace

std::unique_ptr<Session> open_cpu_session(const SessionOptions& options, OpenedModel opened) {
  return std::make_unique<CpuSession>(options, std::move(opened));
}

}  // namespace sj
