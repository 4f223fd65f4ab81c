// Stamps of the device's clock around every launch of a step: appended to ptx.cuh by the profiler (runtime/trace.cpp), never
// otherwise. A kernel's pdl_wait() then also notes when its first block was there, when its predecessors were done, and when its
// last block's first thread left. kTrace is the address of the kernel's LaunchTrace.
#pragma once

#include "sj_baked.h"

#include "args/launch_trace.h"
#include "device/types.cuh"

namespace sj {

__device__ __forceinline__ unsigned long long global_ns() {
  unsigned long long ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns)::"memory");
  return ns;
}

/// Lives from the wait to the end of the kernel's body.
class TracedWait {
 public:
  __device__ __forceinline__ TracedWait() {
    if (is_clock()) {
      begin_ns_ = global_ns();
      // Launches of one kernel follow each other, so arrivals number them. Nobody else reads or writes this memory.
      ticket_ = atomicAdd(&trace()->n_arrivals, 1ull);
    }
    pdl_wait();
    if (is_clock()) release_ns_ = global_ns();
  }
  __device__ __forceinline__ ~TracedWait() {
    if (!is_clock()) return;
    const unsigned long long n_blocks = static_cast<unsigned long long>(gridDim.x) * gridDim.y * gridDim.z;
    LaunchStamps& stamps = trace()->stamps[ticket_ / n_blocks % kTraceLaunches];
    if (ticket_ % n_blocks == 0) {
      stamps.begin_ns = begin_ns_;
      stamps.release_ns = release_ns_;
    }
    atomicMax(&stamps.end_ns, global_ns());
  }

 private:
  static __device__ __forceinline__ bool is_clock() { return (threadIdx.x | threadIdx.y | threadIdx.z) == 0; }
  static __device__ __forceinline__ LaunchTrace* trace() { return reinterpret_cast<LaunchTrace*>(baked::kTrace); }
  unsigned long long begin_ns_ = 0, release_ns_ = 0, ticket_ = 0;
};

}  // namespace sj

#define pdl_wait() const ::sj::TracedWait sj_traced_wait
