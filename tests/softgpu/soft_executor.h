// Loaded images and the host threads that run their blocks. In: launches. Out: done, or the device's sticky fault.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "softgpu/soft_block.h"
#include "softgpu/soft_checks.h"

namespace softgpu {

/// A loaded cubin. Each host thread runs its own copy of the image: static data of the copy is that block's shared memory.
class Module {
 public:
  /// Null when the image can't be loaded here, with the reason in `why`.
  static std::shared_ptr<Module> load(std::string_view host_image, uint32_t arch, std::string& why);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const SoftImage& image() const { return *copies_[0].image; }
  uint64_t static_shared_bytes() const { return static_shared_bytes_; }
  const SharedMap& shared() const { return shared_; }
  /// The copy of host thread `worker`, loaded at its first use.
  const ImageCopy& copy(uint32_t worker);

 private:
  Module() = default;
  bool load_copy(ImageCopy& copy, std::string& why);
  std::string host_image_;
  std::vector<ImageCopy> copies_;
  SharedMap shared_;
  uint64_t static_shared_bytes_ = 0;
};

struct Launch {
  std::shared_ptr<Module> module;
  uint32_t kernel_idx = 0;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t dynamic_bytes = 0;
  bool is_programmatic = false;       ///< may start before its predecessor in the stream ends
  std::vector<std::vector<char>> params;
};

/// Runs all blocks of a launch and returns when they are done. A fault is printed and remembered: see sticky_fault().
void run_launch(const Launch& launch);

/// All work so far is complete before what comes next: a copy, a fill, a synchronisation, the start of a graph.
void note_full_barrier();

/// CUresult of the first fault on this device; 0 while there is none. Every later call returns it.
int sticky_fault();
void set_sticky_fault(int code);

}  // namespace softgpu
