// How this process's software GPU behaves. Read once from the environment: the double has no other way in, because the
// product that loads it does not know that it is one.
//   SOFTCUDA_PROFILE   path of a device profile (kernel_src/profiles/*.toml); default: an RTX 5090
//   SOFTCUDA_THREADS   host threads that run blocks; default: all cores
//   SOFTCUDA_MEMORY    device memory in bytes, instead of the profile's
//   SOFTCUDA_DRIVER    what cuDriverGetVersion answers, e.g. 12040; default 13000
//   SOFTCUDA_FAULT     "call:n:code[,...]": the n-th use of a driver function fails with a CUresult, e.g. "cuMemAlloc_v2:3:2"
//   SOFTCUDA_CALLS     a file that gets a line "call n" a driver function that was used, when the process ends
//   SOFTCUDA_ORDER     "forward" (default), "reverse" or a seed: order of blocks and threads
//   SOFTCUDA_ALLOW     "exited-barrier": a block barrier may be passed while other threads of the block have exited;
//                      "unwritten-shared": shared memory may be read before it is written, when the result is thrown away;
//                      "block-race": blocks of one launch may touch each other's data (checked doubles only)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace softgpu {

struct Fault {
  std::string call;
  uint64_t nth = 1;  ///< 1 is the first use
  int code = 0;
  bool is_for_ever = false;  ///< "call:n+:code": every use from the n-th on
};

struct Config {
  std::string name = "NVIDIA GeForce RTX 5090";
  uint32_t compute_major = 12, compute_minor = 0;
  uint32_t n_sms = 170;
  uint32_t smem_per_block_bytes = 101376, smem_per_sm_bytes = 102400;
  uint32_t regs_per_sm = 65536, max_threads_per_sm = 1536;
  uint64_t l2_bytes = 100663296, memory_bytes = 34359738368;
  double bandwidth_gb_per_s = 1792;
  bool is_integrated = false;

  int driver_version = 13000;
  uint32_t n_threads = 1;
  bool is_reverse = false;
  uint64_t seed = 0;  ///< 0: no shuffling
  bool allows_exited_barrier = false, allows_block_race = false, allows_unwritten_shared = false;
  std::vector<Fault> faults;
  std::string calls_path;  ///< where the numbers of uses go; empty: nowhere
  std::string problem;  ///< why the configuration can't be used; cuInit fails then

  uint32_t arch() const { return compute_major * 10 + compute_minor; }
  /// Whether a cubin for `cubin_arch` runs: code runs on later minor versions of its major one.
  bool runs(uint32_t cubin_arch) const { return cubin_arch / 10 == compute_major && cubin_arch <= arch(); }
};

const Config& config();

}  // namespace softgpu
