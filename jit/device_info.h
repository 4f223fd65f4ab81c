// What a kernel spec needs to know of a card. In: a driver and an ordinal, or the name of a profile (kernel_src/profiles).
// Out: DeviceInfo. Called by runtime/lowering, prewarm, doctor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "jit/driver.h"

namespace sj {

struct DeviceInfo {
  std::string name;                  ///< as the driver spells it: "NVIDIA GeForce RTX 5090"
  uint32_t compute_major = 0, compute_minor = 0;
  uint32_t n_sms = 0;
  uint32_t smem_per_block_bytes = 0;  ///< largest opt-in value
  uint32_t smem_per_sm_bytes = 0;
  uint32_t regs_per_sm = 65536;
  uint32_t max_threads_per_sm = 0;
  uint64_t l2_bytes = 0;
  uint64_t memory_bytes = 0;
  double bandwidth_gb_per_s = 0;      ///< peak of device memory; 0: unknown
  bool is_integrated = false;         ///< shares its memory with the CPU
  bool operator==(const DeviceInfo&) const = default;

  /// What to compile for: "sm_90", "sm_120f", "sm_121f". The family suffix is used from compute 10.0 on.
  std::string target() const;
  uint32_t arch() const { return compute_major * 10 + compute_minor; }
};

/// Other targets whose cubins run on a card of `target`, nearest first: of the same major version, and of the same family where
/// the target names one. Empty for most.
std::vector<std::string> compatible_targets(std::string_view target);

/// Throws kCuda when there is no device `ordinal`; kUnsupported below compute 8.0.
DeviceInfo device_info(const Driver& drv, int ordinal);

/// Names of the profiles built into the binary, sorted: "gb10", "h200", "rtx5090", "rtxpro6000".
std::vector<std::string> device_profile_names();
/// By name, or by path when `name` ends in ".toml". Throws kUsage for an unknown name (listing the known ones), kIo, and
/// kUnsupported for a profile with missing, unknown or impossible values.
DeviceInfo require_device_profile(const std::string& name);
/// A profile's text; `origin` names it in messages.
DeviceInfo parse_device_profile(std::string_view toml, const std::string& origin);
/// The text that parse_device_profile reads back to an equal DeviceInfo.
std::string device_profile_text(const DeviceInfo& info);

}  // namespace sj
