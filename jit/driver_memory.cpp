// Device and pinned memory, copies and fills of jit/driver.h.
#include <fmt/format.h>

#include <utility>

#include "jit/base/log.h"
#include "jit/driver.h"

namespace sj {
MemoryInfo memory_info(const Driver& drv) {
  size_t free_bytes = 0, total_bytes = 0;
  drv.check(drv.cuMemGetInfo(&free_bytes, &total_bytes), "cuMemGetInfo");
  return {free_bytes, total_bytes};
}

DeviceBuffer::DeviceBuffer(const Driver& drv, uint64_t n_bytes, std::string_view what) : drv_(&drv), n_bytes_(n_bytes) {
  if (n_bytes == 0) return;
  const CUresult result = drv.cuMemAlloc(&ptr_, n_bytes);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    const MemoryInfo memory = memory_info(drv);
    throw Error(ErrorKind::kCuda, fmt::format("out of GPU memory for {}: needed {} bytes ({:.2f} GiB), free {} bytes ({:.2f} GiB) of {}",
                                              what, n_bytes, static_cast<double>(n_bytes) / (1 << 30), memory.free_bytes,
                                              static_cast<double>(memory.free_bytes) / (1 << 30), memory.total_bytes));
  }
  drv.check(result, "cuMemAlloc", fmt::format("{}, {} bytes", what, n_bytes));
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : drv_(other.drv_), ptr_(std::exchange(other.ptr_, 0)), n_bytes_(std::exchange(other.n_bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this != &other) {
    release();
    drv_ = other.drv_;
    ptr_ = std::exchange(other.ptr_, 0);
    n_bytes_ = std::exchange(other.n_bytes_, 0);
  }
  return *this;
}

DeviceBuffer::~DeviceBuffer() { release(); }

void DeviceBuffer::release() noexcept {
  if (ptr_ != 0) drv_->log_failure(drv_->cuMemFree(ptr_), "cuMemFree");
  ptr_ = 0;
}

PinnedBuffer::PinnedBuffer(const Driver& drv, uint64_t n_bytes, std::string_view what, bool write_combined)
    : drv_(&drv), n_bytes_(n_bytes) {
  if (n_bytes == 0) return;
  const unsigned flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | (write_combined ? CU_MEMHOSTALLOC_WRITECOMBINED : 0u);
  void* data = nullptr;
  drv.check(drv.cuMemHostAlloc(&data, n_bytes, flags), "cuMemHostAlloc", fmt::format("{}, {} bytes of pinned memory", what, n_bytes));
  data_ = static_cast<std::byte*>(data);
  const CUresult result = drv.cuMemHostGetDevicePointer(&device_ptr_, data, 0);
  if (result != CUDA_SUCCESS) {
    release();
    drv.check(result, "cuMemHostGetDevicePointer", what);
  }
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : drv_(other.drv_), data_(std::exchange(other.data_, nullptr)), device_ptr_(std::exchange(other.device_ptr_, 0)),
      n_bytes_(std::exchange(other.n_bytes_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  if (this != &other) {
    release();
    drv_ = other.drv_;
    data_ = std::exchange(other.data_, nullptr);
    device_ptr_ = std::exchange(other.device_ptr_, 0);
    n_bytes_ = std::exchange(other.n_bytes_, 0);
  }
  return *this;
}

PinnedBuffer::~PinnedBuffer() { release(); }

void PinnedBuffer::release() noexcept {
  if (data_ != nullptr) drv_->log_failure(drv_->cuMemFreeHost(data_), "cuMemFreeHost");
  data_ = nullptr;
}

void copy_to_device(const Driver& drv, CUdeviceptr dst, const void* src, uint64_t n_bytes) {
  drv.check(drv.cuMemcpyHtoD(dst, src, n_bytes), "cuMemcpyHtoD");
}
void copy_to_device(const Stream& stream, CUdeviceptr dst, const void* src, uint64_t n_bytes) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuMemcpyHtoDAsync(dst, src, n_bytes, stream.get()), "cuMemcpyHtoDAsync");
}
void copy_to_host(const Driver& drv, void* dst, CUdeviceptr src, uint64_t n_bytes) {
  drv.check(drv.cuMemcpyDtoH(dst, src, n_bytes), "cuMemcpyDtoH");
}
void copy_to_host(const Stream& stream, void* dst, CUdeviceptr src, uint64_t n_bytes) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuMemcpyDtoHAsync(dst, src, n_bytes, stream.get()), "cuMemcpyDtoHAsync");
}
void copy_on_device(const Stream& stream, CUdeviceptr dst, CUdeviceptr src, uint64_t n_bytes) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuMemcpyDtoDAsync(dst, src, n_bytes, stream.get()), "cuMemcpyDtoDAsync");
}
void fill_bytes(const Stream& stream, CUdeviceptr dst, uint8_t value, uint64_t n_bytes) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuMemsetD8Async(dst, value, n_bytes, stream.get()), "cuMemsetD8Async");
}
void fill_words(const Stream& stream, CUdeviceptr dst, uint32_t value, uint64_t n_words) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuMemsetD32Async(dst, value, n_words, stream.get()), "cuMemsetD32Async");
}

}  // namespace sj
