#include "runtime/session.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "jit/base/log.h"
#include "jit/device_info.h"
#include "jit/driver.h"
#include "jit/nvrtc.h"
#include "models/synth.h"
#include "runtime/cuda_session.h"
#include "runtime/opened_model.h"
#include "runtime/options.h"
#include "runtime/session_tuning.h"

namespace sj {
namespace {

constexpr uint32_t kDefaultCtxTokens = 4096;

std::vector<Lowered> lower_tuned_steps(const ModelDesc& model, const Driver& drv, int ordinal, const SessionOptions& options) {
  const DeviceInfo device = device_info(drv, ordinal);
  return lower_steps(model, device, options, session_tuning(options, device, drv.version));
}

/// The steps for device 0 when it can serve, else nothing with the reason in `why`.
std::optional<std::vector<Lowered>> find_gpu_steps(const SessionOptions& options, const OpenedModel& opened, const Driver*& drv,
                                                   std::string& why) {
  drv = find_driver(options.libcuda_path, &why);
  if (drv == nullptr) return std::nullopt;
  try {
    return lower_tuned_steps(opened.model, *drv, 0, options);
  } catch (const Error& error) {
    // Only what the card or this build can't do at all; a full memory or a broken kernel is the user's to know.
    if (error.kind() != ErrorKind::kUnsupported) throw;
    why = error.what();
    return std::nullopt;
  }
}

Error no_file_for_the_cpu(const OpenedModel& opened, const std::string& why) {
  return Error(ErrorKind::kUnsupported, fmt::format("{}: weights without a file are made in GPU memory only ({}); for the CPU, write a "
                                                    "file with sparkjit synth", opened.file.path(), why));
}

std::unique_ptr<Session> open_auto_session(const SessionOptions& options, OpenedModel opened) {
  std::string why;
  const Driver* drv = nullptr;
  if (std::optional<std::vector<Lowered>> steps = find_gpu_steps(options, opened, drv, why)) {
    log_info("device", "auto: GPU 0, because there is one that can run the model");
    return open_cuda_session(options, std::move(opened), *drv, 0, std::move(*steps));
  }
  if (opened.weight_seed) throw no_file_for_the_cpu(opened, why);
  log_info("device", "auto: CPU, because {}", why);
  return open_cpu_session(options, std::move(opened));
}

}  // namespace

void Session::fill_context(uint32_t, uint32_t) {
  throw Error(ErrorKind::kUnsupported, fmt::format("a context of random keys and values needs a GPU, and this is {}", device_name()));
}

OpenedModel open_model(const std::string& path) {
  const Clock::time_point start = Clock::now();
  GgufFile file = open_gguf(path);
  LoadTimings timings{.open_us = elapsed_us(start)};
  const Clock::time_point describe_start = Clock::now();
  ModelDesc model = describe_model(file);
  std::optional<Tokenizer> tokenizer;
  if (Tokenizer::has_vocab(file)) tokenizer = Tokenizer::from_gguf(file);
  timings.describe_us = elapsed_us(describe_start);
  return {start, std::move(file), std::move(model), std::move(tokenizer), timings};
}

uint32_t context_tokens(const ModelDesc& model, uint32_t wanted) {
  return wanted != 0 ? wanted : std::max(std::min(model.trained_ctx_tokens, kDefaultCtxTokens), 1u);
}

void require_tokens_fit(const ModelDesc& model, std::span<const TokenId> tokens, uint32_t n_past, uint32_t max_ctx_tokens) {
  if (tokens.empty()) throw Error(ErrorKind::kUsage, "the prompt is empty: expected at least one token");
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= model.n_vocab)
      throw Error(ErrorKind::kUsage, fmt::format("token {} of the prompt: id {} is outside of the vocabulary 0..{}", i, tokens[i],
                                                 model.n_vocab - 1));
  if (n_past + tokens.size() > max_ctx_tokens)
    throw Error(ErrorKind::kUsage, fmt::format("the prompt of {} tokens does not fit the context: {} of {} tokens are taken; raise --ctx",
                                               tokens.size(), n_past, max_ctx_tokens));
}

uint32_t n_tokens_to_sample(const GenerateOptions& options, uint32_t n_past, uint32_t max_ctx_tokens) {
  return std::min(options.max_new_tokens, max_ctx_tokens - n_past + 1);
}

TokenId argmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) throw Error(ErrorKind::kInternal, fmt::format("the logit of token {} is NaN", i));
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<TokenId>(best);
}

namespace {

std::unique_ptr<Session> open_with(const SessionOptions& asked, const std::function<OpenedModel()>& open) {
  drop_compiler_variables();
  const SessionOptions options = resolve_options(asked, read_environment());
  const std::optional<int> ordinal = cuda_ordinal(options.device);
  if (!is_device_name(options.device))
    throw Error(ErrorKind::kUsage, fmt::format("--device: expected auto, cpu, cuda or cuda:N, found '{}'", options.device));
  // A missing GPU is known before the file is read.
  const Driver* drv = ordinal ? &require_driver(options.libcuda_path) : nullptr;
  OpenedModel opened = open();
  if (options.device == "cpu") {
    if (opened.weight_seed) throw no_file_for_the_cpu(opened, "--device is cpu");
    return open_cpu_session(options, std::move(opened));
  }
  if (drv != nullptr) {
    std::vector<Lowered> steps = lower_tuned_steps(opened.model, *drv, *ordinal, options);
    return open_cuda_session(options, std::move(opened), *drv, *ordinal, std::move(steps));
  }
  return open_auto_session(options, std::move(opened));
}

}  // namespace

std::unique_ptr<Session> open_session(const SessionOptions& options) {
  return open_with(options, [&] { return open_model(options.model_path); });
}

std::unique_ptr<Session> open_shape_session(const SessionOptions& options, const ShapeFile& shape, const SynthOptions& synth) {
  return open_with(options, [&] {
    const Clock::time_point start = Clock::now();
    GgufFile file = synthetic_gguf(shape, synth);
    ModelDesc model = describe_model(file);
    return OpenedModel{start, std::move(file), std::move(model), std::nullopt, {.describe_us = elapsed_us(start)}, synth.seed};
  });
}

}  // namespace sj
