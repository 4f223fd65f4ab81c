// Broken GGUF files, made by hand: each with the rule that must refuse it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jit/base/error.h"

namespace sj::test {

struct BadGguf {
  std::string name;      ///< of the case
  std::string bytes;
  std::string message;   ///< must occur in the error
  std::string field;     ///< named by the error as "field <field>;"
  uint64_t offset = 0;   ///< named by the error as "offset <offset>;"
  ErrorKind kind = ErrorKind::kBadModel;
};

std::vector<BadGguf> bad_gguf_files();

}  // namespace sj::test
