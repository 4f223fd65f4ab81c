// One step as a list of kernel launches whose pointers are still symbolic. In: made by lower_graph and its fusion rules.
// Out: read by the planner (which gives every buffer an address), `inspect --stage specs` and the profiler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "jit/base/error.h"
#include "jit/kernel_spec.h"
#include "models/model_desc.h"

namespace sj {

enum class BufferKind : uint8_t {
  kWeight,  ///< id indexes Lowered::weights
  kValue,   ///< id indexes Lowered::values; lives in the arena from the first to the last launch that names it
  kState,   ///< id indexes Lowered::states; outlives the step and is shared by all plans of a session
};

/// A place in device memory that has no address yet.
struct BufferRef {
  BufferKind kind = BufferKind::kValue;
  uint32_t id = 0;
  uint64_t byte_offset = 0;
  BufferRef operator+(uint64_t n_bytes) const { return {kind, id, byte_offset + n_bytes}; }
  bool operator==(const BufferRef&) const = default;
};

/// The 8-byte address of `ref` is stored at `args_offset` of the argument struct.
struct ArgPatch {
  size_t args_offset = 0;
  BufferRef ref;
};

/// How a tensor's bytes lie on the device.
enum class WeightForm : uint8_t {
  kRowRecords,  ///< kernel_src/weight_layout.h
  kF32,         ///< every element as float, no padding: norms, biases, scales
};

/// A weight that some launch reads. The address of a view (row_begin > 0) is that of its first row.
struct WeightUse {
  WeightRef ref;
  WeightForm form = WeightForm::kRowRecords;
  bool operator==(const WeightUse&) const = default;
};

/// What the bytes of a value mean; for comparisons of values, the kernels know it themselves.
enum class ValueForm : uint8_t {
  kOpaque,     ///< scratch, or not known
  kF32,
  kI32,
  kQuantVec,   ///< int8 groups, device/weight_dot.cuh; quant_vec_bytes() of its length
  kNormedVec,  ///< a QuantVec and sums of squares; normed_vec_bytes() of its length
  kScores,     ///< 64-bit integers in units of 2^-32, device/router_scores.cuh
};

/// An activation or scratch buffer of one step. Its content is undefined when the step begins.
struct LoweredValue {
  std::string name;
  uint64_t n_bytes = 0;
  ValueForm form = ValueForm::kOpaque;
};

enum class StateHome : uint8_t {
  kDevice,
  kMappedHost,  ///< pinned host memory that kernels write and the host polls
};

/// A buffer that outlives the step. Plans of one session that name the same key share it; its size is the largest asked.
struct StateBuffer {
  std::string key;               ///< "step", "kv.k.3", "rope.0f2a..."
  uint64_t n_bytes = 0;
  StateHome home = StateHome::kDevice;
  std::vector<std::byte> init = {};  ///< content after loading (the rest is zero); never written again if not empty
};

/// What a launch moves and computes for each key it sees; the number of keys is known only when the step runs.
struct CostPerKey {
  double bytes = 0, flops = 0;
  uint32_t window_tokens = 0;  ///< most keys it sees; 0: all
};

struct LoweredLaunch {
  KernelSpec spec;                 ///< its cost leaves out what `per_key` says
  std::vector<std::byte> args;     ///< the family's POD argument struct, pointers not yet filled in
  std::vector<ArgPatch> patches;   ///< which pointers go where
  std::string label;               ///< op or rule name: "blk.3.attn_q", "blk.3.qkv"
  int layer = -1;                  ///< -1: not in a layer
  bool pdl = true;                 ///< may start before its predecessor ends (the kernel calls pdl_wait)
  CostPerKey per_key = {};

  /// With `n_keys` tokens in the KV cache, the step's own included.
  Cost cost(uint64_t n_keys) const;
};

struct Lowered {
  uint32_t n_tokens = 0;           ///< tokens a step, at most
  bool all_logits = false;
  uint32_t attend_tokens = 0;      ///< one-token steps laid out for so many positions; 0: serves the whole context
  std::vector<LoweredLaunch> launches;
  std::vector<WeightUse> weights;
  std::vector<LoweredValue> values;
  std::vector<StateBuffer> states;
  std::vector<std::string> notes;  ///< why fusion rules refused, one line each, without repeats

  Cost cost(uint64_t n_keys) const;   ///< of all launches
};

/// A launch of `spec` with `args`; each patch is {offsetof(Args, pointer), buffer}. Pointers without a patch keep the value
/// they have in `args` (null for an absent optional input). Throws kInternal when a patch lies outside of Args.
template <class Args>
LoweredLaunch make_launch(KernelSpec spec, const Args& args, std::initializer_list<ArgPatch> patches) {
  static_assert(std::is_trivially_copyable_v<Args> && std::is_standard_layout_v<Args>, "arguments are one POD struct");
  LoweredLaunch launch;
  launch.spec = std::move(spec);
  launch.args.resize(sizeof(Args));
  std::memcpy(launch.args.data(), &args, sizeof(Args));
  for (const ArgPatch& patch : patches) {
    if (patch.args_offset % sizeof(void*) != 0 || patch.args_offset + sizeof(void*) > sizeof(Args))
      throw Error(ErrorKind::kInternal, "make_launch: patch offset " + std::to_string(patch.args_offset) +
                                            " is not a pointer of the arguments of " + launch.spec.entry);
    launch.patches.push_back(patch);
  }
  return launch;
}

/// One line a launch with its baked constants and buffers, for `inspect --stage specs` and golden dumps.
std::string dump(const Lowered& lowered);

}  // namespace sj
