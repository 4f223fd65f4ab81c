#include "models/registry.h"

#include <array>
#include <string>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr std::array<Architecture, 5> kArchitectures = {{
    {"gemma3", describe_gemma3},
    {"llama", describe_llama},
    {"qwen2", describe_qwen2},
    {"qwen3", describe_qwen3},
    {"qwen3moe", describe_qwen3moe},
}};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

const Architecture& require_architecture(std::string_view name) {
  std::string known;
  for (const Architecture& arch : kArchitectures) {
    if (arch.name == name) return arch;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", arch.name);
  }
  throw Error(ErrorKind::kUnsupported, fmt::format("architecture '{}' is not supported; supported: {}", name, known));
}

}  // namespace sj
