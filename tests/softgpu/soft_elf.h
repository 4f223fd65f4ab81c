// The "cubin" of the software GPU: a CUDA ELF file with the sections that a reader of cubins expects, around a host shared
// object. Written by libsoftnvrtc, read by libsoftcuda.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace softgpu {

inline constexpr uint32_t kRegisters = 32;  ///< what every kernel of the software GPU reports

/// A variable in shared memory, as offset and size in the image's data.
struct SharedVariable {
  std::string name;
  uint64_t address;  ///< relative to the image's load address
  uint64_t size_bytes;
};

struct CubinParts {
  uint32_t arch;                      ///< 120 for sm_120f
  std::vector<std::string> entries;
  uint64_t static_shared_bytes;
  std::string host_image;             ///< shared object
};

std::string write_cubin(const CubinParts& parts);

struct CubinView {
  uint32_t arch;
  std::string_view host_image;
};
/// nullopt when `bytes` is no cubin of the software GPU, e.g. one of a real NVRTC.
std::optional<CubinView> read_cubin(const void* bytes);

/// The variables in .bss of a shared object that device text declared __shared__, sorted by address; every other one is
/// named soft_*. `padding`: bytes that the compiler step added to each.
std::vector<SharedVariable> shared_variables(std::string_view host_image, uint64_t padding);

}  // namespace softgpu
