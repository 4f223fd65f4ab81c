// The architectures that sparkjit knows: general.architecture -> describe function.
#pragma once

#include <span>
#include <string_view>

#include "models/model_desc.h"

namespace sj {

struct Architecture {
  std::string_view name;
  ModelDesc (*describe)(const GgufFile& file);
};

/// Sorted by name.
std::span<const Architecture> architectures();
/// Throws kUnsupported naming the known ones.
const Architecture& require_architecture(std::string_view name);

ModelDesc describe_gemma3(const GgufFile& file);
ModelDesc describe_llama(const GgufFile& file);
ModelDesc describe_qwen2(const GgufFile& file);
ModelDesc describe_qwen3(const GgufFile& file);
ModelDesc describe_qwen3moe(const GgufFile& file);

}  // namespace sj
