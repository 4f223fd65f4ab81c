// Texts of kernel_src/ that the build put into the binary (jit/embed_sources.cmake writes the .cpp).
#pragma once

#include <span>
#include <string_view>

namespace sj {

struct EmbeddedSource {
  std::string_view path;  ///< relative to kernel_src/: "rmsnorm.cu", "device/ptx.cuh", "profiles/h200.toml"
  std::string_view text;
};

std::span<const EmbeddedSource> embedded_sources();

}  // namespace sj
