// TOML that a user may have written, parsed with the place of what is wrong.
#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "jit/base/error.h"

namespace sj {

/// Throws kUsage "<origin>:<line>: column <n>: not TOML: <why>".
inline toml::table parse_toml(std::string_view text, const std::string& origin) {
  try {
    return toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    const toml::source_position at = error.source().begin;
    throw Error(ErrorKind::kUsage, fmt::format("{}:{}: column {}: not TOML: {}", origin, at.line, at.column, error.description()));
  }
}

}  // namespace sj
