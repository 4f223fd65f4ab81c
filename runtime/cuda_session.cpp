#include "runtime/cuda_session.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "cache/kernel_cache.h"
#include "jit/base/log.h"
#include "kernel_src/args/step_state.h"
#include "runtime/device_load.h"
#include "runtime/executor.h"
#include "runtime/kv_cache.h"
#include "runtime/lowering.h"
#include "runtime/memory_plan.h"
#include "runtime/options.h"
#include "runtime/planner.h"
#include "runtime/profile.h"
#include "runtime/trace.h"
#include "runtime/weights.h"

namespace sj {
namespace {

constexpr uint32_t kStepsAhead = 4;         // decode steps enqueued beyond the last token that the host has seen
constexpr uint32_t kHostSlots = 16;         // step inputs that may be on their way to the device
static_assert(kStepsAhead < kTokenRingSlots);

/// Step inputs on their way to the device: a slot of pinned memory is written again only after its copy is done.
class StepInputs {
 public:
  StepInputs(const Driver& drv, uint32_t max_tokens)
      : slot_bytes_(kTokensOffset + max_tokens * sizeof(TokenId)), slots_(drv, kHostSlots * slot_bytes_, "step inputs") {
    for (Event& event : is_copied_) event = Event(drv, false);
  }

  void enqueue(const Stream& stream, const StepState& state, CUdeviceptr state_ptr, std::span<const TokenId> tokens,
               CUdeviceptr tokens_ptr) {
    const uint32_t i = next_++ % kHostSlots;
    if (next_ > kHostSlots) is_copied_[i].synchronize();
    std::byte* slot = slots_.data() + i * slot_bytes_;
    std::memcpy(slot, &state, sizeof(state));
    copy_to_device(stream, state_ptr, slot, sizeof(state));
    if (!tokens.empty()) {
      std::memcpy(slot + kTokensOffset, tokens.data(), tokens.size_bytes());
      copy_to_device(stream, tokens_ptr, slot + kTokensOffset, tokens.size_bytes());
    }
    is_copied_[i].record(stream);
  }

 private:
  static constexpr size_t kTokensOffset = 64;
  size_t slot_bytes_;
  PinnedBuffer slots_;
  std::array<Event, kHostSlots> is_copied_;
  uint32_t next_ = 0;
};

class CudaSession : public Session {
 public:
  CudaSession(const SessionOptions& options, OpenedModel opened, const Driver& drv, int ordinal, std::vector<Lowered> steps)
      : opened_(std::move(opened)), max_ctx_tokens_(context_tokens(opened_.model, options.max_ctx_tokens)),
        kv_type_(kv_type_of(options)),
        context_(drv, ordinal), device_(device_info(drv, ordinal)), executor_(drv, options.sync_launches), options_(options),
        steps_(std::move(steps)) {
    load(options, steps_);
    opened_.timings.ready_us = elapsed_us(opened_.start);
  }
  ~CudaSession() override {
    try {
      executor_.stream().synchronize("end of the session");   // kernels still write to the mapped ring
    } catch (const Error& error) {
      log_debug("session", "{}", error.what());   // the failure was thrown where it happened
    }
  }

  const ModelDesc& model() const override { return opened_.model; }
  const Tokenizer* tokenizer() const override { return opened_.tokenizer ? &*opened_.tokenizer : nullptr; }
  uint32_t max_ctx_tokens() const override { return max_ctx_tokens_; }
  uint32_t n_past() const override { return n_past_; }
  std::string device_name() const override { return fmt::format("{} (cuda:{}, {})", device_.name, context_.ordinal(), device_.target()); }
  const LoadTimings& timings() const override { return opened_.timings; }
  void reset() override { n_past_ = 0; }
  void fill_context(uint32_t n_tokens, uint32_t seed) override;

  std::vector<float> feed(std::span<const TokenId> tokens, bool all_logits) override;
  GenerateStats generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                         const std::function<bool(TokenId)>& on_token) override;

  Cost decode_cost(uint32_t n_past) const override { return decode(n_past).cost(n_past + 1); }
  uint32_t launches_per_token() const override { return static_cast<uint32_t>(decode().launches.size()); }
  double peak_gb_per_s() const override { return device_.bandwidth_gb_per_s; }
  std::vector<OpTiming> profile_decode(uint32_t n_repeats) override;

 private:
  /// The one-token plan for the position; the first that reaches so far does least.
  const Plan& decode(uint32_t position) const {
    for (const Plan& plan : plans_)
      if (plan.attend_tokens == 0 || position < plan.attend_tokens) return plan;
    return plans_.back();
  }
  const Plan& decode() const { return decode(n_past_); }
  const Plan& plan_for(size_t n_tokens) const { return n_tokens == 1 ? decode() : plans_.back(); }
  bool samples(const Plan& plan) const { return !plan.all_logits; }

  void load(const SessionOptions& options, const std::vector<Lowered>& steps);
  void build_kernels(const SessionOptions& options, const std::vector<Lowered>& steps, KernelTable& table);
  std::optional<std::vector<LaunchSlice>> trace_decode(const std::function<void()>& prepare);

  void write_inputs(uint32_t n_tokens, TokenId token, std::span<const TokenId> tokens);
  void run_chunk(std::span<const TokenId> tokens);
  void feed_all(std::span<const TokenId> tokens);
  void copy_logits(float* out, size_t first_row, size_t n_rows);
  std::span<const float> last_logits();
  size_t last_logits_row() const { return last_plan_->all_logits ? last_chunk_tokens_ - 1 : 0; }
  uint32_t decode_greedy(uint32_t n_max, bool stop_at_eog, const std::function<bool(TokenId)>& on_token);
  uint32_t decode_sampled(uint32_t n_max, const GenerateOptions& options, Sampler& sampler,
                          const std::function<bool(TokenId)>& on_token);
  bool is_stop(TokenId id, bool stop_at_eog) const { return stop_at_eog && tokenizer() != nullptr && tokenizer()->is_eog(id); }

  // Order matters: what is declared later is destroyed first, and everything else before the context.
  OpenedModel opened_;
  uint32_t max_ctx_tokens_;
  KvType kv_type_;
  Context context_;
  DeviceInfo device_;
  std::unique_ptr<WeightPlan> weight_plan_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<StepInputs> inputs_;
  PinnedBuffer host_logits_;
  std::vector<LoadedKernel> kernels_;
  Executor executor_;
  std::vector<Plan> plans_;
  SessionOptions options_;
  std::vector<Lowered> steps_;          ///< of plans_, for the profiler

  uint32_t n_past_ = 0;
  uint32_t step_idx_ = 0;               ///< sampling steps enqueued so far; the device counts alike
  const Plan* last_plan_ = nullptr;     ///< whose logits are on the device
  size_t last_chunk_tokens_ = 0;
};

void CudaSession::build_kernels(const SessionOptions& options, const std::vector<Lowered>& steps, KernelTable& table) {
  KernelCache cache(kernel_cache_options(options, read_environment()));
  table = collect_kernels(steps);
  const Clock::time_point compile_start = Clock::now();
  const BuiltKernels built = cache.build_kernels(table.specs, device_.target(), options.n_threads);
  LoadTimings& timings = opened_.timings;
  timings.compile_us = elapsed_us(compile_start);
  timings.n_kernels = built.stats.n_kernels;
  timings.n_compiled = built.stats.n_compiled;
  timings.n_from_disk = built.stats.n_from_disk;
  timings.n_from_bundle = built.stats.n_from_bundle + built.stats.n_from_family;
  timings.compile_threads = built.stats.n_threads;
  log_info("kernels", "{}: {} compiled, {} from the cache, {} from bundles, in {:.1f} ms", timings.n_kernels, timings.n_compiled,
           timings.n_from_disk, timings.n_from_bundle, timings.compile_us / 1e3);
  const Clock::time_point load_start = Clock::now();
  kernels_ = load_kernels(context_.driver(), cache, table, built, device_.target());
  timings.module_load_us = elapsed_us(load_start);
}

void CudaSession::load(const SessionOptions& options, const std::vector<Lowered>& steps) {
  const Driver& drv = context_.driver();
  log_info("device", "{}", device_name());
  for (const Lowered& step : steps)
    for (const std::string& note : step.notes) log_debug("fusion", "{} tokens: {}", step.n_tokens, note);
  const std::unique_ptr<WeightSource> source = weight_source(opened_, device_);
  weight_plan_ = std::make_unique<WeightPlan>(*source, steps);
  StatePlan states = plan_states(steps);
  std::vector<ArenaPlan> arenas;
  for (const Lowered& step : steps) arenas.push_back(plan_arena(step));
  const MemoryInfo memory = memory_info(drv);
  require_fits(memory_needs(model(), max_ctx_tokens_, kv_type_, *weight_plan_, states, arenas), memory.free_bytes, memory.total_bytes, device_.name,
               opened_.weight_seed ? "--layers takes fewer of the model's layers" : "--device cpu needs no GPU memory");

  KernelTable table;
  build_kernels(options, steps, table);

  const Clock::time_point upload_start = Clock::now();
  memory_ = std::make_unique<DeviceMemory>(drv, executor_.stream(), std::move(states), arenas);
  memory_->set_weights(upload_weights(context_, *source, *weight_plan_, options.n_threads, options.show_progress), *weight_plan_);
  opened_.timings.upload_us = elapsed_us(upload_start);

  for (size_t i = 0; i < steps.size(); ++i)
    plans_.push_back(make_plan(steps[i], arenas[i], *memory_, kernels_, table.of_launch[i]));
  executor_.set_token_ring(reinterpret_cast<const uint64_t*>(memory_->host_ptr("token_ring")),
                           reinterpret_cast<const uint32_t*>(memory_->host_ptr("nan_step")));
  inputs_ = std::make_unique<StepInputs>(drv, plans_.back().n_tokens);
  host_logits_ = PinnedBuffer(drv, model().n_vocab * sizeof(float), "logits");
  for (Plan& plan : plans_)
    if (plan.n_tokens == 1) executor_.capture(plan);
}

void CudaSession::write_inputs(uint32_t n_tokens, TokenId token, std::span<const TokenId> tokens) {
  const StepState state{.position = static_cast<int32_t>(n_past_), .n_tokens = static_cast<int32_t>(n_tokens), .token = token,
                        .step_idx = step_idx_};
  executor_.guarded("inputs of the step", [&] {
    inputs_->enqueue(executor_.stream(), state, memory_->state_ptr("step"), tokens,
                     tokens.empty() ? CUdeviceptr{0} : memory_->state_ptr("tokens"));
  });
}

void CudaSession::run_chunk(std::span<const TokenId> tokens) {
  const Plan& plan = plan_for(tokens.size());
  const bool is_decode = plan.n_tokens == 1;
  write_inputs(static_cast<uint32_t>(tokens.size()), tokens[0], is_decode ? std::span<const TokenId>() : tokens);
  executor_.run(plan);
  if (samples(plan)) ++step_idx_;
  n_past_ += static_cast<uint32_t>(tokens.size());
  last_plan_ = &plan;
  last_chunk_tokens_ = tokens.size();
}

void CudaSession::feed_all(std::span<const TokenId> tokens) {
  for (size_t begin = 0; begin < tokens.size(); begin += last_chunk_tokens_)
    run_chunk(tokens.subspan(begin, std::min<size_t>(plans_.back().n_tokens, tokens.size() - begin)));
}

void CudaSession::fill_context(uint32_t n_tokens, uint32_t seed) {
  if (n_tokens > max_ctx_tokens_)
    throw Error(ErrorKind::kUsage, fmt::format("{} tokens don't fit the context of {}; raise --ctx", n_tokens, max_ctx_tokens_));
  context_.make_current();
  executor_.guarded("filling the context", [&] {
    fill_kv_cache(context_.driver(), executor_.stream(), *memory_, model(), kv_type_, n_tokens, seed);
  });
  n_past_ = n_tokens;
}

void CudaSession::copy_logits(float* out, size_t first_row, size_t n_rows) {
  const size_t row_bytes = model().n_vocab * sizeof(float);
  executor_.guarded("copy of the logits", [&] {
    for (size_t row = 0; row < n_rows; ++row) {
      copy_to_host(executor_.stream(), host_logits_.data(), memory_->state_ptr("logits") + (first_row + row) * row_bytes, row_bytes);
      executor_.stream().synchronize("logits");
      if (out != nullptr) std::memcpy(out + row * model().n_vocab, host_logits_.data(), row_bytes);
    }
  });
}

std::span<const float> CudaSession::last_logits() {
  copy_logits(nullptr, last_logits_row(), 1);
  return {host_logits_.as<float>(), model().n_vocab};
}

std::vector<float> CudaSession::feed(std::span<const TokenId> tokens, bool all_logits) {
  require_tokens_fit(model(), tokens, n_past_, max_ctx_tokens_);
  context_.make_current();
  if (!all_logits) {
    feed_all(tokens);
    const std::span<const float> logits = last_logits();
    return {logits.begin(), logits.end()};
  }
  std::vector<float> logits(tokens.size() * model().n_vocab);
  // A plan that keeps only the last token's logits can't serve a batch here: then it goes token by token.
  const size_t n_step = plans_.back().all_logits ? plans_.back().n_tokens : 1;
  for (size_t begin = 0; begin < tokens.size(); begin += last_chunk_tokens_) {
    run_chunk(tokens.subspan(begin, std::min(n_step, tokens.size() - begin)));
    copy_logits(logits.data() + begin * model().n_vocab, 0, last_chunk_tokens_);
  }
  return logits;
}

/// The device samples and feeds itself; the host only follows.
uint32_t CudaSession::decode_greedy(uint32_t n_max, bool stop_at_eog, const std::function<bool(TokenId)>& on_token) {
  const uint32_t base_past = n_past_;
  bool has_first = false;
  TokenId first = 0;
  if (!samples(*last_plan_)) {
    first = argmax(last_logits());
    has_first = true;
    write_inputs(1, first, {});
  }
  const uint32_t first_step = has_first ? step_idx_ : step_idx_ - 1;   // of the first token that comes through the ring
  const uint32_t n_steps = n_max - 1;
  uint32_t n_launched = 0, n_new = 0;
  for (uint32_t i = 0; i < n_max; ++i) {
    for (; n_launched < n_steps && n_launched < i + kStepsAhead; ++n_launched, ++step_idx_)
      executor_.run(decode(base_past + n_launched));
    const TokenId id = i == 0 && has_first ? first : executor_.wait_for_token(first_step + i - (has_first ? 1 : 0));
    if (is_stop(id, stop_at_eog)) break;
    ++n_new;
    if (!on_token(id)) break;
  }
  n_past_ = base_past + (n_new == 0 ? 0 : n_new - 1);   // steps beyond are forgotten: the next write of the state overrules them
  last_plan_ = &decode();
  last_chunk_tokens_ = 1;
  return n_new;
}

uint32_t CudaSession::decode_sampled(uint32_t n_max, const GenerateOptions& options, Sampler& sampler,
                                     const std::function<bool(TokenId)>& on_token) {
  uint32_t n_new = 0;
  while (n_new < n_max) {
    const TokenId id = sampler.sample(last_logits());
    if (is_stop(id, options.stop_at_eog)) break;
    sampler.accept(id);
    ++n_new;
    if (!on_token(id) || n_new == n_max) break;
    run_chunk({&id, 1});
  }
  return n_new;
}

GenerateStats CudaSession::generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                                    const std::function<bool(TokenId)>& on_token) {
  require_tokens_fit(model(), prompt, n_past_, max_ctx_tokens_);
  context_.make_current();
  Sampler sampler(options.sampler);
  GenerateStats stats{.n_prompt_tokens = static_cast<uint32_t>(prompt.size())};
  const Clock::time_point start = Clock::now();
  feed_all(prompt);
  const uint32_t n_max = n_tokens_to_sample(options, n_past_, max_ctx_tokens_);
  const bool is_greedy = options.sampler.is_greedy();
  // The clock of the prompt stops when its last logits, or the token made of them, are known.
  if (!is_greedy || n_max == 0 || !samples(*last_plan_)) executor_.synchronize("prompt");
  else executor_.wait_for_token(step_idx_ - 1);
  stats.prompt_us = elapsed_us(start);
  if (n_max == 0) return stats;
  const Clock::time_point decode_start = Clock::now();
  if (is_greedy) {
    stats.n_new_tokens = decode_greedy(n_max, options.stop_at_eog, on_token);
  } else {
    for (TokenId id : prompt) sampler.accept(id);
    stats.n_new_tokens = decode_sampled(n_max, options, sampler, on_token);
  }
  stats.decode_us = elapsed_us(decode_start);
  executor_.synchronize("end of generation");
  return stats;
}

std::optional<std::vector<LaunchSlice>> CudaSession::trace_decode(const std::function<void()>& prepare) {
  std::string why;
  if (const Nvrtc* nvrtc = find_nvrtc(options_.libnvrtc_path, &why)) {
    const SourceSet own = options_.kernel_dir.empty() ? SourceSet::embedded() : SourceSet::from_folder(options_.kernel_dir);
    const size_t step = static_cast<size_t>(&decode() - plans_.data());
    const TraceRequest request{.step = steps_[step], .plan = plans_[step], .sources = own, .target = device_.target(),
                               .n_threads = options_.n_threads, .prepare = prepare};
    if (auto slices = trace_plan(context_.driver(), executor_, *nvrtc, request, why)) return slices;
  }
  log_info("profile", "launches are timed by themselves only: {}", why);
  return std::nullopt;
}

std::vector<OpTiming> CudaSession::profile_decode(uint32_t n_repeats) {
  if (n_past_ >= max_ctx_tokens_)
    throw Error(ErrorKind::kUsage, fmt::format("profile: the context of {} tokens is full", max_ctx_tokens_));
  context_.make_current();
  // The position is written before every step, so the cache's tokens stay; the place of the next one is scribbled on.
  const auto prepare = [&] {
    write_inputs(1, 0, {});
    ++step_idx_;   // its slot of the token ring is taken
  };
  std::vector<OpTiming> timings = profile_plan(context_.driver(), executor_, decode(), n_repeats, n_past_ + 1, prepare);
  if (const std::optional<std::vector<LaunchSlice>> slices = trace_decode(prepare))
    for (size_t i = 0; i < timings.size(); ++i) timings[i].in_step = (*slices)[i];
  return timings;
}

}  // namespace

std::unique_ptr<Session> open_cuda_session(const SessionOptions& options, OpenedModel opened, const Driver& drv, int ordinal,
                                           std::vector<Lowered> steps) {
  return std::make_unique<CudaSession>(options, std::move(opened), drv, ordinal, std::move(steps));
}

}  // namespace sj
