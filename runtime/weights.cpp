#include "runtime/weights.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "jit/base/file.h"
#include "jit/base/log.h"
#include "jit/base/parallel.h"
#include "kernel_src/weight_layout.h"
#include "models/dequant.h"
#include "models/synth.h"
#include "runtime/memory_plan.h"

namespace sj {
namespace {

constexpr uint64_t kMaxStagingBytes = uint64_t{8} << 20, kMinStagingBytes = uint64_t{256} << 10;
constexpr uint64_t kFloatBlockElems = 256;   // a multiple of every type's block

bool is_raw(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

uint64_t file_bytes(DType dtype, uint64_t n_elems) {
  const DTypeInfo& info = dtype_info(dtype);
  return n_elems / info.block_elems * info.block_bytes;
}

/// One thread's two pinned buffers and the stream that empties them.
class UploadLane {
 public:
  UploadLane(const Driver& drv, uint64_t slot_bytes)
      : slot_bytes_(slot_bytes), stream_(drv), staging_(drv, 2 * slot_bytes, "weight staging"),
        is_copied_{Event(drv, false), Event(drv, false)} {}

  /// The buffer whose copy is done.
  std::span<std::byte> acquire(uint64_t n_bytes) {
    slot_ ^= 1;
    if (is_pending_[slot_]) is_copied_[slot_].synchronize();
    return {staging_.data() + slot_ * slot_bytes_, n_bytes};
  }
  void copy(CUdeviceptr dst, std::span<const std::byte> bytes) {
    copy_to_device(stream_, dst, bytes.data(), bytes.size());
    is_copied_[slot_].record(stream_);
    is_pending_[slot_] = true;
  }
  void finish() const { stream_.synchronize("upload of the weights"); }

 private:
  uint64_t slot_bytes_;
  Stream stream_;
  PinnedBuffer staging_;
  Event is_copied_[2];
  bool is_pending_[2] = {false, false};
  uint32_t slot_ = 0;
};

}  // namespace

void FileWeights::read(const TensorInfo& tensor, uint64_t offset_bytes, std::span<std::byte> out) const {
  const int fd = file_.fd(tensor.part);
  const uint64_t begin = tensor.file_offset + offset_bytes;
  size_t n_done = 0;
  while (n_done < out.size()) {
    const ssize_t n = ::pread(fd, out.data() + n_done, out.size() - n_done, static_cast<off_t>(begin + n_done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw Error(ErrorKind::kIo, fmt::format("{}: tensor {}: expected {} bytes at offset {}, found {}: {}",
                                              file_.part_paths()[tensor.part], tensor.name, out.size(), begin, n_done,
                                              n < 0 ? errno_text(errno) : "the file became shorter"));
    n_done += static_cast<size_t>(n);
  }
  if (drop_pages_) ::posix_fadvise(fd, static_cast<off_t>(begin), static_cast<off_t>(out.size()), POSIX_FADV_DONTNEED);
}

void SyntheticWeights::read(const TensorInfo& tensor, uint64_t offset_bytes, std::span<std::byte> out) const {
  const uint64_t row_bytes = tensor.n_bytes / tensor.n_rows(), row = offset_bytes / row_bytes;
  const uint64_t skipped = offset_bytes - row * row_bytes;
  if (skipped == 0 && out.size() % row_bytes == 0) return synthesise_tensor(tensor, seed_, row, out);
  std::vector<std::byte> rows((skipped + out.size() + row_bytes - 1) / row_bytes * row_bytes);   // pieces of floats end anywhere
  synthesise_tensor(tensor, seed_, row, rows);
  std::memcpy(out.data(), rows.data() + skipped, out.size());
}

WeightPlan::WeightPlan(const WeightSource& source, std::span<const Lowered> steps) {
  for (const Lowered& step : steps)
    for (const WeightUse& use : step.weights) {
      const auto [it, is_new] = index_.try_emplace({use.ref.tensor, use.form}, tensors_.size());
      if (is_new) {
        const TensorInfo& info = source.require_tensor(use.ref.tensor);
        Tensor tensor{.info = &info, .form = use.form, .offset_bytes = n_bytes_};
        tensor.row_bytes = use.form == WeightForm::kF32 ? sizeof(float) * info.row_elems()
                                                        : row_record_bytes(info.dtype, info.row_elems());
        tensor.n_bytes = tensor.row_bytes * info.n_rows();
        n_bytes_ += (tensor.n_bytes + kBufferAlignBytes - 1) / kBufferAlignBytes * kBufferAlignBytes;
        tensors_.push_back(tensor);
      }
      const TensorInfo& info = *tensors_[it->second].info;
      const uint64_t last_row = (use.ref.n_experts - 1) * use.ref.expert_stride_rows + use.ref.row_begin + use.ref.n_rows;
      if (last_row * use.ref.n_cols > info.n_elems())
        throw Error(ErrorKind::kBadModel, fmt::format("tensor {}: rows up to {} of {} columns are used, found {} elements",
                                                      info.name, last_row, use.ref.n_cols, info.n_elems()));
    }
}

uint64_t WeightPlan::offset_of(const WeightUse& use) const {
  const auto found = index_.find({use.ref.tensor, use.form});
  if (found == index_.end())
    throw Error(ErrorKind::kInternal, fmt::format("tensor {}: used but not planned", use.ref.tensor));
  const Tensor& tensor = tensors_[found->second];
  const uint64_t first_row_bytes = use.form == WeightForm::kF32 ? use.ref.row_begin * use.ref.n_cols * sizeof(float)
                                                                : use.ref.row_begin * tensor.row_bytes;
  return tensor.offset_bytes + first_row_bytes;
}

std::vector<WeightJob> weight_jobs(const WeightPlan& plan, uint64_t max_bytes) {
  std::vector<size_t> order(plan.tensors().size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const TensorInfo &x = *plan.tensors()[a].info, &y = *plan.tensors()[b].info;
    return std::pair(x.part, x.file_offset) < std::pair(y.part, y.file_offset);
  });
  std::vector<WeightJob> jobs;
  for (size_t i : order) {
    const WeightPlan::Tensor& tensor = plan.tensors()[i];
    const bool is_float = tensor.form == WeightForm::kF32;
    const uint64_t n = is_float ? tensor.info->n_elems() : tensor.info->n_rows();
    const uint64_t step = is_float ? std::max<uint64_t>(max_bytes / (sizeof(float) * kFloatBlockElems), 1) * kFloatBlockElems
                                   : std::max<uint64_t>(max_bytes / tensor.row_bytes, 1);
    for (uint64_t begin = 0; begin < n; begin += step) jobs.push_back({i, begin, std::min(begin + step, n)});
  }
  return jobs;
}

uint64_t job_bytes(const WeightPlan& plan, const WeightJob& job) {
  const WeightPlan::Tensor& tensor = plan.tensors()[job.tensor];
  return (job.end - job.begin) * (tensor.form == WeightForm::kF32 ? sizeof(float) : tensor.row_bytes);
}

void convert_job(const WeightSource& source, const WeightPlan& plan, const WeightJob& job, std::span<std::byte> out,
                 std::vector<std::byte>& scratch) {
  const WeightPlan::Tensor& tensor = plan.tensors()[job.tensor];
  const TensorInfo& info = *tensor.info;
  const uint64_t n_elems_of_one = tensor.form == WeightForm::kF32 ? 1 : info.row_elems();
  const uint64_t offset = file_bytes(info.dtype, job.begin * n_elems_of_one);
  const uint64_t n_bytes = file_bytes(info.dtype, (job.end - job.begin) * n_elems_of_one);
  const bool is_copy = tensor.form == WeightForm::kF32 ? info.dtype == DType::kF32
                                                       : is_raw(info.dtype) && tensor.row_bytes * (job.end - job.begin) == n_bytes;
  if (is_copy) return source.read(info, offset, out);
  scratch.resize(std::max<size_t>(scratch.size(), n_bytes));
  const std::span<std::byte> bytes(scratch.data(), n_bytes);
  source.read(info, offset, bytes);
  if (tensor.form == WeightForm::kF32)
    return dequantise(info.dtype, bytes, reinterpret_cast<float*>(out.data()), job.end - job.begin);
  const uint64_t row_bytes = file_bytes(info.dtype, info.row_elems());
  for (uint64_t row = 0; row < job.end - job.begin; ++row)
    repack_row(info.dtype, info.row_elems(), bytes.subspan(row * row_bytes, row_bytes),
               out.subspan(row * tensor.row_bytes, tensor.row_bytes));
}

DeviceBuffer upload_weights(const Context& context, const WeightSource& source, const WeightPlan& plan, uint32_t n_threads,
                            bool show_progress) {
  const Driver& drv = context.driver();
  DeviceBuffer weights(drv, plan.n_bytes(), "weights");
  const uint32_t n_cores = n_threads == 0 ? n_usable_cores() : n_threads;
  const uint64_t slot_goal = std::clamp(plan.n_bytes() / (2 * n_cores), kMinStagingBytes, kMaxStagingBytes);
  const std::vector<WeightJob> jobs = weight_jobs(plan, slot_goal);
  uint64_t slot_bytes = 1;
  for (const WeightJob& job : jobs) slot_bytes = std::max(slot_bytes, job_bytes(plan, job));
  const uint64_t n_lanes = std::min<uint64_t>(n_cores, jobs.size());

  ProgressBar progress("weights (MiB)", plan.n_bytes() >> 20, show_progress);
  std::atomic<uint64_t> next_job = 0, n_bytes_done = 0;
  std::atomic<bool> has_failed = false;
  parallel_for(n_lanes, static_cast<uint32_t>(n_lanes), [&](uint64_t) {
    try {
      context.make_current();
      UploadLane lane(drv, slot_bytes);
      std::vector<std::byte> scratch;
      for (uint64_t i = next_job++; i < jobs.size() && !has_failed; i = next_job++) {
        const WeightJob& job = jobs[i];
        const std::span<std::byte> slot = lane.acquire(job_bytes(plan, job));
        convert_job(source, plan, job, slot, scratch);
        const WeightPlan::Tensor& tensor = plan.tensors()[job.tensor];
        const uint64_t unit_bytes = tensor.form == WeightForm::kF32 ? sizeof(float) : tensor.row_bytes;
        lane.copy(weights.ptr() + tensor.offset_bytes + job.begin * unit_bytes, slot);
        const uint64_t before = n_bytes_done.fetch_add(slot.size());
        progress.add(((before + slot.size()) >> 20) - (before >> 20), tensor.info->name);
      }
      lane.finish();
    } catch (...) {
      has_failed = true;   // the other lanes stop at their next piece
      throw;
    }
  });
  return weights;
}

}  // namespace sj
