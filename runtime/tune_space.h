// WHAT COULD BE TUNED: every tunable kernel of a model's decode steps on a card, its candidates, and which of them need not run.
// In: model, card, kernel specs (through lowering), cubins' resources. Out: keys with candidates. No driver, no measurement, no
// knowledge of any kernel. Called by the tuner.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jit/cubin.h"
#include "jit/device_info.h"
#include "jit/kernel_spec.h"
#include "jit/tuning.h"
#include "kernel_src/kv_type.h"
#include "models/model_desc.h"
#include "runtime/lowered.h"
#include "runtime/session.h"

namespace sj {

/// A decode step to measure in: the one that sessions run at some depths.
struct TuneContext {
  uint32_t attend_tokens = 0;   ///< as in LoweringOptions; 0: serves the whole context
  uint32_t depth_tokens = 0;    ///< tokens in the cache, as reports have it
  std::vector<uint32_t> sample_depths = {};   ///< ascending, measured one after the other: what is best at one depth may lose at others
  /// Tokens in the cache while outputs are checked: the measured steps write keys and values behind these only.
  uint32_t check_tokens() const { return sample_depths.front() < 2 ? 0 : sample_depths.front() - 2; }
};

/// "128", "42, 128, 213": the depths at which it is measured.
std::string depths_text(const TuneContext& context);

/// The contexts of a model's sessions of up to `max_ctx_tokens`, each measured at three of the depths that it serves; or, with
/// `depths`, those that serve these depths, measured there only. Throws kUsage for a depth that does not fit the context.
std::vector<TuneContext> tune_contexts(uint32_t max_ctx_tokens, std::span<const uint32_t> depths);

/// Why a candidate is not measured.
enum class PruneReason : uint8_t {
  kNone,
  kInadmissible,   ///< the family's rule refuses it, or it changes more than its kernel
  kSameKernel,     ///< an earlier candidate is the same kernel with the same launch
  kUncompilable,
  kSpills,         ///< registers, more than the default does
  kSharedMemory,   ///< a block needs more than the card has
  kNotResident,    ///< no block fits an SM: registers or threads
  kSlowByModel,    ///< cost model: rounds of blocks, or the busiest SM's bytes, take far longer than the default's
  kFailedBefore,   ///< an earlier sweep on this card and driver could not run it to its end
  kFewInFlight,    ///< cost model: resident blocks ask for far less at once than the default's, and than saturates the memory
};
std::string_view prune_reason_name(PruneReason reason);

struct TuneCandidate {
  TuneValues values;
  bool is_default = false;
  KernelSpec spec;                 ///< of the key's first launch
  KernelResources resources;       ///< once compiled
  uint32_t blocks_per_sm = 0;      ///< once compiled
  PruneReason pruned = PruneReason::kNone;
  std::string why;                 ///< of pruned, with the figures
  bool is_pruned() const { return pruned != PruneReason::kNone; }
};

struct TuneKey {
  std::string name;                ///< KernelSpec::tune_key
  size_t context = 0;              ///< index of the context in which it is measured: the first that has it
  uint32_t n_launches = 0;         ///< of one step
  Cost cost;                       ///< of all of them, at the context's depth
  std::vector<TuneCandidate> candidates;   ///< the default first
  size_t n_pruned() const;
};

/// A model's decode steps on a card with any tuning.
class TuneSpace {
 public:
  /// Throws kUnsupported as lower_graph does.
  TuneSpace(const ModelDesc& model, const DeviceInfo& device, ActivationMode activations, uint32_t max_ctx_tokens,
            std::vector<TuneContext> contexts);

  const std::vector<TuneContext>& contexts() const { return contexts_; }
  const DeviceInfo& device() const { return device_; }
  const ModelDesc& model() const { return model_; }
  uint32_t max_ctx_tokens() const { return max_ctx_tokens_; }
  /// A q8_0 cache is not tuned for: its kernels have keys of their own.
  KvType kv_type() const { return activations_ == ActivationMode::kF32 ? KvType::kF32 : KvType::kF16; }

  /// The step of a context; strict: throws kUsage or kUnsupported for a choice that a family refuses.
  Lowered lower(size_t context, const Tuning& tuning) const;

  /// The tunable kernels whose key matches `glob` (empty: all), those that move most bytes first within a context, with all their
  /// candidates lowered; what lowering refuses, what is the same kernel and what can't fit is marked. Throws kUsage when a glob
  /// matches nothing, naming the keys there are.
  std::vector<TuneKey> enumerate(const std::string& glob);

  /// The default step of a context with every value and state as large as any candidate needs; after enumerate().
  const std::vector<Lowered>& widest() const { return widest_; }

 private:
  void add_candidates(TuneKey& key, const KernelSpec& default_spec);
  TuneCandidate lower_candidate(const TuneKey& key, const TuneValues& values);

  ModelDesc model_;
  DeviceInfo device_;
  ActivationMode activations_;
  uint32_t max_ctx_tokens_;
  std::vector<TuneContext> contexts_;
  std::vector<Lowered> widest_;
};

/// Blocks of one launch that an SM holds at once, from the figures of the card; 0: none.
uint32_t resident_blocks(const DeviceInfo& device, const KernelResources& resources, const LaunchShape& shape);

/// Marks a compiled candidate that need not be measured. `base`: the default, compiled. The default itself is never marked.
void prune_compiled(TuneCandidate& candidate, const TuneCandidate& base, const DeviceInfo& device);

/// `*` stands for any text, `?` for one character; without either the pattern may be any part of the name.
bool matches_glob(std::string_view pattern, std::string_view name);

}  // namespace sj
