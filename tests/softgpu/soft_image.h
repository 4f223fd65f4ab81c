// The contract between a compiled image and the software driver: included by the device prelude (first line of every
// translation unit that libsoftnvrtc compiles) and by libsoftcuda. Plain types only: device text has no std header.
#pragma once

/// Position of one thread; the prelude's threadIdx reads it through soft_current.
struct SoftThread {
  unsigned tid_x, tid_y, tid_z;
  unsigned lane;  ///< index in its warp
};

/// The block that an image copy is running: gridDim, blockDim and blockIdx; and its threads' stacks, which need no checks.
struct SoftBlock {
  unsigned grid_x, grid_y, grid_z;
  unsigned dim_x, dim_y, dim_z;
  unsigned idx_x, idx_y, idx_z;
  const char* stacks;
  unsigned long stacks_bytes;
};

/// Where in the device text a synchronising call stands.
struct SoftPlace {
  const char* call;  ///< "__shfl_xor_sync"
  const char* file;
  int line;
};

/// Runs once all lanes of `mask` have arrived: operands[l] is what lane l passed (null for lanes outside of the mask).
using SoftLaneFn = void (*)(void** operands, unsigned mask);

/// What the driver offers to running device text. Every call is made by a thread of the block.
struct SoftOps {
  /// Waits for the whole block; returns how many threads passed a true `predicate`.
  unsigned (*block_barrier)(int predicate, const SoftPlace* place);
  /// Waits for the lanes of `mask`, the last one runs `fn` (may be null), then all go on.
  void (*warp_collective)(SoftLaneFn fn, void* operand, unsigned mask, const SoftPlace* place);
  void (*pdl_trigger)();
  void (*pdl_wait)();
  /// Copies global -> shared as the copy engine would: lands at the latest moment that the program allows.
  void (*async_copy)(void* shared, const void* global, unsigned n_bytes, unsigned n_read, unsigned long alignment);
  void (*async_commit)();
  void (*async_wait)(unsigned n_pending);
  void (*bulk_copy)(void* shared, const void* global, unsigned n_bytes, void* barrier);
  void (*mbarrier_init)(void* barrier, unsigned n_arrivals);
  void (*mbarrier_arrive)(void* barrier, unsigned expect_bytes);
  int (*mbarrier_test)(void* barrier, unsigned parity);
  /// An access of `n_bytes`: kind 0 read, 1 write, 2 atomic, 3 read of a weight that must never be written by a kernel.
  void (*check_access)(const void* address, unsigned long n_bytes, int kind, const void* pc);
  void (*fence)();
  void (*yield)();                      ///< lets other threads of the block run
  void (*fail)(const char* message);    ///< does not return
};

struct SoftParam {
  unsigned long offset, size;
};

struct SoftKernel {
  const char* name;
  void (*call)(void** params);
  unsigned n_params;
  const SoftParam* params;
};

inline constexpr unsigned kSoftImageMagic = 0x5347502b;
inline constexpr unsigned kSoftImageVersion = 2;
inline constexpr unsigned kSoftDynamicBytes = 232448;  ///< the most dynamic shared memory of any profile: 227 KB

/// Exported by every image as `soft_image`.
struct SoftImage {
  unsigned magic, version;
  int is_checked;                 ///< compiled with access checks
  const SoftKernel* kernels;
  unsigned n_kernels;
  const SoftThread** current;     ///< the driver writes the running thread here at every switch
  SoftBlock* block;
  const SoftOps** ops;
  char* dynamic_shared;
};
