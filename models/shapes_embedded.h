// Texts of models/shapes/*.toml that the build put into the binary (models/CMakeLists.txt writes the .cpp).
#pragma once

#include <span>
#include <string_view>

namespace sj {

struct EmbeddedShape {
  std::string_view name;   ///< file name without ".toml"
  std::string_view text;
};

std::span<const EmbeddedShape> embedded_shapes();

}  // namespace sj
