// A kernel spec is the unit of everything: compile, cache key, launch shape, cost model, tuning, test.
// In: made by kernel_src/*_spec from a family's parameters. Out: read by the compiler, the cache and the launcher.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace sj {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  auto operator<=>(const Dim3&) const = default;
};

struct LaunchShape {
  Dim3 grid, block;
  uint32_t dynamic_smem_bytes = 0;
  auto operator<=>(const LaunchShape&) const = default;
};

/// What one launch moves and computes; the source of every GB/s and % of peak that sparkjit prints.
struct Cost {
  double bytes = 0;  ///< device-memory bytes read and written, each once
  double flops = 0;
};

/// One constant baked into the kernel as `inline constexpr <type> <name> = <value>;` in namespace sj::baked.
/// int64_t becomes `unsigned`, `int` (negative) or `long long` as it fits, double becomes `float`, string is text as written (an
/// initialiser, e.g. "{1, 2, 3}", with `type` naming the C++ type, e.g. "int" and name "kRows[3]").
struct Baked {
  std::string name;
  std::variant<int64_t, double, bool, std::string> value;
  std::string type = {};
  bool operator==(const Baked&) const = default;
};

/// A baked constant that `tune` may change.
struct Tunable {
  std::string name;              ///< name of an entry in `baked`
  std::vector<int64_t> choices;  ///< values that the family's validity rule admits for these parameters
  bool operator==(const Tunable&) const = default;
};

struct KernelSpec {
  std::string source;  ///< file name in kernel_src/, e.g. "rmsnorm.cu"
  std::string entry;   ///< extern "C" name, e.g. "sj_rmsnorm"
  std::vector<Baked> baked;
  LaunchShape launch;
  Cost cost;
  std::vector<Tunable> tunables = {};
  std::string tune_key = {};   ///< family and shape, by which tuned values are kept: kernel_src/tuned_spec.h; "" with no tunables
  bool is_tuned = false;       ///< the tunables' values come from a sweep (jit/tuning.h), not from the family's defaults
  bool may_spill = false;      ///< true only where the family says why
};

/// The text of the generated header sj_baked.h: equal specs give equal bytes.
std::string baked_header(const KernelSpec& spec);
/// "rmsnorm[kDim=2048,kThreads=256]": entry without "sj_", then the scalar constants. Used in logs, profile and cache meta.
std::string kernel_label(const KernelSpec& spec);

}  // namespace sj
