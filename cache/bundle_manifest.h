// What a bundle says about itself, for people and for messages: nothing in it decides which cubin is loaded, except the
// compilers, of which keys are formed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/cache_key.h"

namespace sj {

/// A card whose kernels are in the bundle, with the figures that shape kernels.
struct BundleDevice {
  std::string name, target;
  uint32_t n_sms = 0, smem_per_block_bytes = 0;
  bool operator==(const BundleDevice&) const = default;
};

/// A model whose kernels for a card are in the bundle.
struct BundleModel {
  std::string model, device;
  uint32_t prefill_tokens = 0;
  bool is_f32 = false;          ///< the float32 steps
  std::string kv_type = "f16";  ///< how their sessions keep keys and values
  uint32_t n_kernels = 0;
  bool operator==(const BundleModel&) const = default;
};

struct BundleManifest {
  std::vector<std::string> made_by;                          ///< "sparkjit 0.1.0"
  std::vector<CompilerId> compilers;
  std::map<std::string, std::vector<std::string>> options;   ///< code-generation options by target
  std::vector<BundleDevice> devices;
  std::vector<BundleModel> models;
  bool operator==(const BundleManifest&) const = default;
};

/// JSON without line breaks; equal manifests give equal bytes.
std::string manifest_text(const BundleManifest& manifest);
/// Nothing, with the reason in `why`, for a text that manifest_text did not make.
std::optional<BundleManifest> parse_manifest(std::string_view text, std::string& why);
/// Adds what `more` has and `manifest` has not, in order.
void merge_manifest(BundleManifest& manifest, const BundleManifest& more);
/// "NVIDIA H200 (sm_90, 132 SMs), ..., KV cache f16, ..."
std::string purpose_text(const BundleManifest& manifest);

}  // namespace sj
