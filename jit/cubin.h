// A compiled kernel: what compile() makes, the cache stores and load_kernel() loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sj {

struct KernelResources {
  uint32_t registers = 0;          ///< a thread
  uint32_t stack_bytes = 0;        ///< local memory a thread, spills included
  uint32_t spill_bytes = 0;        ///< local memory a thread that holds spilled registers (stores + loads, as ptxas counts)
  uint32_t static_smem_bytes = 0;  ///< shared memory a block, without the dynamic part
  bool operator==(const KernelResources&) const = default;
};

struct Cubin {
  std::vector<std::byte> bytes;  ///< ELF image for exactly one target
  std::string entry;             ///< extern "C" name
  std::string target;            ///< "sm_120f"
  std::string label;             ///< kernel_label()
  std::string compiler;          ///< "nvrtc 13.0"
  KernelResources resources;
  double compile_us = 0;         ///< what making it cost
  std::string log;               ///< warnings of the compiler; empty for a cubin from the cache
};

/// What the ELF header says about the machine it is for: 90 for sm_90, 120 for sm_120f. 0 when it is no CUDA ELF image.
uint32_t cubin_arch(std::span<const std::byte> bytes);

/// Registers, stack and shared memory of `entry`, read from the ELF image; spill_bytes is not in there and stays 0.
/// Throws kInternal when the image is damaged or has no such entry.
KernelResources read_resources(std::span<const std::byte> bytes, const std::string& entry);

}  // namespace sj
