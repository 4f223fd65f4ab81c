// Weights from a file to the device. Each tensor is uploaded once, as row records or as floats; views of fused tensors and
// tied heads share memory. In: the weights that launches use, a source of bytes. Out: one device buffer and its offsets.
// Called by the session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "jit/driver.h"
#include "models/gguf_file.h"
#include "runtime/lowered.h"

namespace sj {

/// Where tensors come from. read() is called from many threads at once.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Throws kBadModel when there is none of that name.
  virtual const TensorInfo& require_tensor(const std::string& name) const = 0;
  /// Bytes [offset, offset + out.size()) of the tensor as the file stores it. Throws kIo.
  virtual void read(const TensorInfo& tensor, uint64_t offset_bytes, std::span<std::byte> out) const = 0;
};

/// Reads with pread, not through the mapping: large requests, no page faults.
class FileWeights : public WeightSource {
 public:
  /// `drop_pages`: the file's pages leave the page cache after reading, so that nothing is held twice where the device
  /// shares the memory. `file` must outlive this object.
  FileWeights(const GgufFile& file, bool drop_pages) : file_(file), drop_pages_(drop_pages) {}
  const TensorInfo& require_tensor(const std::string& name) const override { return file_.require_tensor(name); }
  void read(const TensorInfo& tensor, uint64_t offset_bytes, std::span<std::byte> out) const override;

 private:
  const GgufFile& file_;
  bool drop_pages_;
};

/// The weights of synthetic_gguf(), made as they are asked for.
class SyntheticWeights : public WeightSource {
 public:
  /// `file`: of synthetic_gguf() with the same seed; must outlive this object.
  SyntheticWeights(const GgufFile& file, uint64_t seed) : file_(file), seed_(seed) {}
  const TensorInfo& require_tensor(const std::string& name) const override { return file_.require_tensor(name); }
  void read(const TensorInfo& tensor, uint64_t offset_bytes, std::span<std::byte> out) const override;

 private:
  const GgufFile& file_;
  uint64_t seed_;
};

/// Layout of all weights in one block of device memory.
class WeightPlan {
 public:
  /// Throws kUnsupported when a tensor has no row record, kBadModel when a use lies outside of its tensor.
  WeightPlan(const WeightSource& source, std::span<const Lowered> steps);

  struct Tensor {
    const TensorInfo* info = nullptr;
    WeightForm form = WeightForm::kRowRecords;
    uint64_t offset_bytes = 0, n_bytes = 0;
    uint64_t row_bytes = 0;   ///< device bytes of one row
  };
  const std::vector<Tensor>& tensors() const { return tensors_; }
  uint64_t n_bytes() const { return n_bytes_; }
  /// Offset of the first row (row records) or element (floats) of a use.
  uint64_t offset_of(const WeightUse& use) const;

 private:
  std::vector<Tensor> tensors_;
  std::map<std::pair<std::string, WeightForm>, size_t> index_;
  uint64_t n_bytes_ = 0;
};

/// A run of rows (row records) or elements (floats) that is converted and copied in one piece.
struct WeightJob {
  size_t tensor = 0;
  uint64_t begin = 0, end = 0;
};
/// All of a plan, in file order, in pieces of at most `max_bytes` on the device (at least one row or block).
std::vector<WeightJob> weight_jobs(const WeightPlan& plan, uint64_t max_bytes);
uint64_t job_bytes(const WeightPlan& plan, const WeightJob& job);
/// Converts one piece as it lies on the device. `out` has job_bytes() bytes; `scratch` is reused between calls.
void convert_job(const WeightSource& source, const WeightPlan& plan, const WeightJob& job, std::span<std::byte> out,
                 std::vector<std::byte>& scratch);

/// Reads, converts and copies everything on `n_threads` threads (0: all cores), each with two pinned buffers so that it
/// converts one while the other is copied. Returns when the last byte is on the device. Throws kIo and kCuda.
DeviceBuffer upload_weights(const Context& context, const WeightSource& source, const WeightPlan& plan, uint32_t n_threads,
                            bool show_progress);

}  // namespace sj
