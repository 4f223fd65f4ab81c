// A cubin for tests of storing: an ELF header that names its machine, then bytes of no meaning.
#pragma once

#include <elf.h>

#include <cstring>
#include <string>

#include "jit/cubin.h"

namespace sj::test {

inline Cubin fake_cubin(const std::string& entry, size_t n_bytes = 1000, uint32_t arch = 90) {
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = 190;
  header.e_flags = arch << 8;
  Cubin cubin;
  cubin.bytes.resize(std::max(n_bytes, sizeof header));
  for (size_t i = 0; i < cubin.bytes.size(); ++i) cubin.bytes[i] = static_cast<std::byte>(i * 31 + entry.size());
  std::memcpy(cubin.bytes.data(), &header, sizeof header);
  cubin.entry = entry;
  cubin.target = "sm_" + std::to_string(arch);
  cubin.label = entry + "[kRows=1]";
  cubin.compiler = "nvrtc 13.0";
  cubin.resources = {.registers = 32, .stack_bytes = 8, .spill_bytes = 4, .static_smem_bytes = 512};
  cubin.compile_us = 1234.5;
  return cubin;
}

/// 32 hex digits made of `n`.
inline std::string fake_key(uint32_t n) {
  char text[33];
  std::snprintf(text, sizeof text, "%08x%024x", n * 2654435761u, n);
  return text;
}

}  // namespace sj::test
