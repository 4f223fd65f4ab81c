// The public API: a model opened on a device, ready to be fed and to generate.
// In: SessionOptions. Out: tokens and logits. Called by tools/ and by programs that embed sparkjit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "jit/kernel_spec.h"
#include "models/gguf_file.h"
#include "models/model_desc.h"
#include "models/tokenizer.h"
#include "runtime/sampler.h"

namespace sj {

struct ShapeFile;
struct SynthOptions;

enum class ActivationMode {
  kAuto,   ///< int8 per 32 values in decode where the weights are quantised
  kF32,    ///< float32 everywhere, the KV cache included: slower, for comparisons
};

struct SessionOptions {
  std::string model_path;
  std::string device = "auto";          ///< auto | cpu | cuda | cuda:N
  uint32_t max_ctx_tokens = 0;          ///< 0: min(trained context, 4096)
  uint32_t n_threads = 0;               ///< CPU backend, compiler and loader; 0: all cores
  uint32_t prefill_tokens = 512;        ///< most tokens a prefill step
  ActivationMode activations = ActivationMode::kAuto;
  std::string kv_type;                  ///< f16 | q8_0, how the KV cache is stored; empty: f16
  bool cpu_double = false;              ///< CPU backend in float64 (tests)
  std::string cache_dir;                ///< empty: the default ladder
  std::string kernel_dir;               ///< kernel texts from here instead of the embedded ones
  std::string libcuda_path, libnvrtc_path;
  std::vector<std::string> bundle_paths;   ///< files of kernels compiled ahead, asked in this order before cache_dir
  std::string trust_path;               ///< public keys; every bundle must be signed by one of them. Empty: not asked for
  std::string tuning_path;              ///< values of kernels' tunables; empty: the default file if it is there; "shipped", "none"
  bool may_compile = true;              ///< false: a kernel that is neither bundled nor cached is an error
  bool show_progress = true;
  bool expect_all_logits = false;       ///< CUDA: batches that feed(..., all_logits) wants are prepared; else it goes token by token
  bool sync_launches = false;           ///< CUDA: every launch is waited for, so that a failing one is named; slow
};

/// What opening cost; printed by `run --timings`. Times in microseconds.
struct LoadTimings {
  double open_us = 0, describe_us = 0, compile_us = 0, module_load_us = 0, upload_us = 0, ready_us = 0;
  uint32_t n_kernels = 0, n_compiled = 0, n_from_disk = 0, n_from_bundle = 0, compile_threads = 0;
};

struct GenerateOptions {
  uint32_t max_new_tokens = 128;
  SamplerOptions sampler;
  bool stop_at_eog = true;
};

struct GenerateStats {
  uint32_t n_prompt_tokens = 0, n_new_tokens = 0;
  double prompt_us = 0, decode_us = 0;
};

/// What one launch takes of a step that runs as it always does, overlapped. All gaps and times add up to the step's time.
struct LaunchSlice {
  double gap_us = 0;     ///< from the end of the launch before until this one has its inputs: nobody computes
  double us = 0;         ///< from there to its end
  double early_us = 0;   ///< how long its first block was there before that, fetching what doesn't depend on others
  double empty_us = 0;   ///< the part of the gap in which no launch was on the card
};

/// One launch (CUDA) or op (CPU) of a decode step; a row of `bench --per-op`.
struct OpTiming {
  std::string label;        ///< kernel label or op name
  int32_t layer = -1;       ///< -1: outside the layers
  double median_us = 0;     ///< run by itself, with nothing before or behind it
  Cost cost;                ///< what it moves and computes at the present context
  std::optional<LaunchSlice> in_step = std::nullopt;   ///< none where the step could not be traced
};

/// One sequence. Not thread-safe.
class Session {
 public:
  virtual ~Session() = default;
  virtual const ModelDesc& model() const = 0;
  virtual const Tokenizer* tokenizer() const = 0;   ///< null for models without a vocabulary
  virtual uint32_t max_ctx_tokens() const = 0;
  virtual uint32_t n_past() const = 0;              ///< tokens in the KV cache
  virtual std::string device_name() const = 0;
  virtual const LoadTimings& timings() const = 0;

  /// Forgets all tokens.
  virtual void reset() = 0;
  /// Forgets all tokens and declares the KV cache filled with `n_tokens` whose keys and values are random numbers of ordinary
  /// size (0.125 to 2, either sign; same seed, same numbers): a deep context without computing it, for measurements of speed.
  /// A step moves and computes the same amount whatever the values are; only which experts a mixture picks may differ.
  /// Throws kUsage when they don't fit the context, kUnsupported for the CPU.
  virtual void fill_context(uint32_t n_tokens, uint32_t seed);
  /// Appends `tokens` and returns logits: [n, n_vocab] when `all_logits`, else [1, n_vocab] of the last one.
  /// Throws kUsage when they don't fit the context or an id is out of range.
  virtual std::vector<float> feed(std::span<const TokenId> tokens, bool all_logits) = 0;
  /// Appends `prompt`, then samples; `on_token` gets each new id as it becomes known and returns false to stop. An
  /// end-of-generation token stops it and is not passed on. It also stops when the context is full. The last new token is
  /// not in the KV cache afterwards. Greedy sampling stays on the device, a few steps ahead of the host; any other sampling
  /// copies the logits to the host and waits, every step.
  /// Throws kUsage as feed does, and for an empty prompt.
  virtual GenerateStats generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                                 const std::function<bool(TokenId)>& on_token) = 0;

  /// What one decode step with `n_past` tokens in the cache moves and computes; zeros when the backend can't say.
  virtual Cost decode_cost([[maybe_unused]] uint32_t n_past) const { return {}; }
  /// Launches of one decode step; 0 for the CPU backend.
  virtual uint32_t launches_per_token() const { return 0; }
  /// Peak memory bandwidth of the device in GB/s (1e9 bytes); 0 when unknown.
  virtual double peak_gb_per_s() const { return 0; }
  /// Times each launch of a decode step at the present context, by itself (median of `n_repeats`) and inside the step; the tokens
  /// in the cache stay as they are. Inside the step needs the compiler: kernels with stamps of the clock are compiled for it; a
  /// note says why when that can't be. Empty when the backend can't.
  virtual std::vector<OpTiming> profile_decode([[maybe_unused]] uint32_t n_repeats) { return {}; }
};

/// Throws as open_gguf, describe_model and the backends do; kCuda when device is cuda and there is none.
std::unique_ptr<Session> open_session(const SessionOptions& options);

/// A model of random weights that are made for the GPU's memory and nowhere else; the same as the file that
/// write_synthetic_gguf(shape, synth) writes, for speed measurements before there is one. Uses n_layers and seed of `synth`;
/// options.model_path is ignored. Throws as open_session and synthetic_gguf do; kUnsupported where only the CPU could serve.
std::unique_ptr<Session> open_shape_session(const SessionOptions& options, const ShapeFile& shape, const SynthOptions& synth);

}  // namespace sj
