#include "softgpu/soft_executor.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "softgpu/soft_config.h"
#include "softgpu/soft_elf.h"

namespace softgpu {

// ---- modules

bool Module::load_copy(ImageCopy& copy, std::string& why) {
  // A file of its own name for each copy: the loader would give the same copy twice otherwise.
  std::string path;
  int fd = -1;
  for (const char* folder : {"/dev/shm", "/tmp"}) {
    path = std::string(folder) + "/softcuda-XXXXXX";
    if ((fd = ::mkstemp(path.data())) >= 0) break;
  }
  if (fd < 0) {
    why = "can't make a file for the image";
    return false;
  }
  size_t done = 0;
  while (done < host_image_.size()) {
    const ssize_t n = ::write(fd, host_image_.data() + done, host_image_.size() - done);
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  ::close(fd);
  copy.handle = done == host_image_.size() ? ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (copy.handle == nullptr) {
    const char* const reason = ::dlerror();
    why = reason != nullptr ? reason : "no room for the image";
  }
  if (kIsChecked) copy.path = path;  // kept for the line numbers of messages
  else ::unlink(path.c_str());
  if (copy.handle == nullptr) return false;
  copy.image = static_cast<const SoftImage*>(::dlsym(copy.handle, "soft_image"));
  if (copy.image == nullptr || copy.image->magic != kSoftImageMagic || copy.image->version != kSoftImageVersion) {
    why = "the image is of another version of the software GPU";
    return false;
  }
  link_map* map = nullptr;
  ::dlinfo(copy.handle, RTLD_DI_LINKMAP, &map);
  copy.base = map->l_addr;
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(host_image_.data());
  const auto* segments = reinterpret_cast<const ElfW(Phdr)*>(host_image_.data() + header->e_phoff);
  for (uint16_t i = 0; i < header->e_phnum; ++i)
    if (segments[i].p_type == PT_LOAD) copy.span_bytes = std::max<uint64_t>(copy.span_bytes, segments[i].p_vaddr + segments[i].p_memsz);
  return true;
}

std::shared_ptr<Module> Module::load(std::string_view host_image, uint32_t arch, std::string& why) {
  if (!config().runs(arch)) {
    why = "the cubin is for sm_" + std::to_string(arch) + ", the device is sm_" + std::to_string(config().arch());
    return nullptr;
  }
  std::shared_ptr<Module> module(new Module);
  module->host_image_ = host_image;
  module->copies_.resize(config().n_threads);
  if (!module->load_copy(module->copies_[0], why)) return nullptr;
  const uint64_t padding = module->image().is_checked ? 64 : 0;
  for (const SharedVariable& variable : shared_variables(module->host_image_, padding)) {
    module->shared_.ranges.push_back({variable.address, variable.size_bytes});
    module->static_shared_bytes_ = (module->static_shared_bytes_ + 15) / 16 * 16 + variable.size_bytes;
  }
  if (kIsChecked) {
    if (!module->image().is_checked) {
      why = "the image has no access checks: it is not from the checked libnvrtc";
      return nullptr;
    }
    module->shared_.index(reinterpret_cast<uint64_t>(module->image().dynamic_shared) - module->copies_[0].base);
  }
  return module;
}

void SharedMap::index(uint64_t dynamic_at) {
  uint64_t end = dynamic_at + kSoftDynamicBytes;
  begin = dynamic_at;
  for (const SharedRange& range : ranges) {
    begin = std::min(begin, range.offset - std::min<uint64_t>(range.offset, 64));
    end = std::max(end, range.offset + range.size_bytes + 64);
  }
  dynamic_offset = dynamic_at - begin;
  is_variable.assign(end - begin, false);
  for (const SharedRange& range : ranges)
    std::fill_n(is_variable.begin() + static_cast<std::ptrdiff_t>(range.offset - begin), range.size_bytes, true);
}

Module::~Module() {
  for (const ImageCopy& copy : copies_) {
#if !defined(SOFT_ASAN)   // which reads the variables of all images when it reports
    if (copy.handle != nullptr) ::dlclose(copy.handle);
#endif
    if (!copy.path.empty()) ::unlink(copy.path.c_str());
  }
}

const ImageCopy& Module::copy(uint32_t worker) {
  ImageCopy& copy = copies_[worker];
  if (copy.image == nullptr) {
    std::string why;
    if (!load_copy(copy, why)) {
      std::fprintf(stderr, "# softcuda: %s\n", why.c_str());
      std::abort();
    }
  }
  return copy;
}

// ---- host threads

namespace {

std::atomic<int> g_sticky = 0;

class Pool {
 public:
  static Pool& instance() {
    static Pool* const pool = new Pool;  // its threads run until the process ends
    return *pool;
  }

  void run(const Launch& launch) {
    const std::lock_guard one_at_a_time(launches_);
    if (g_sticky != 0) return;
    LaunchJob job;
    job.kernel_idx = launch.kernel_idx;
    job.name = launch.module->image().kernels[launch.kernel_idx].name;
    std::copy_n(launch.grid, 3, job.grid);
    std::copy_n(launch.block, 3, job.block);
    job.dynamic_bytes = launch.dynamic_bytes;
    job.launch_idx = ++n_launches_;
    if (kIsChecked) order_launch(launch, job);
    std::vector<void*> params;
    for (const std::vector<char>& param : launch.params) params.push_back(const_cast<char*>(param.data()));
    job.params = params.data();

    n_blocks_ = uint64_t{job.grid[0]} * job.grid[1] * job.grid[2];
    next_ = 0;
    fault_ = {};
    choose_order();
    module_ = launch.module.get();
    job_ = &job;
    const uint32_t n_workers = static_cast<uint32_t>(std::min<uint64_t>(n_blocks_, config().n_threads));
    if (n_workers > 1) {
      start_threads();
      const std::lock_guard lock(mutex_);
      n_wanted_ = n_workers - 1;
      n_running_ = n_wanted_;
      ++generation_;
      wake_.notify_all();
    }
    work(0);
    if (n_workers > 1) {
      std::unique_lock lock(mutex_);
      done_.wait(lock, [&] { return n_running_ == 0; });
    }
    if (fault_.code != 0) {
      std::fprintf(stderr, "# softcuda: %s\n", fault_.message.c_str());
      set_sticky_fault(fault_.code);
    }
    if (kIsChecked) previous_waited_ = runners_[0] && runners_[0]->has_waited();
  }

  void full_barrier() { full_barrier_at_ = n_launches_; }

 private:
  Pool() : runners_(config().n_threads) {}

  void start_threads() {
    for (; n_started_ + 1 < config().n_threads; ++n_started_)
      std::thread([this, worker = n_started_ + 1] { serve(worker); }).detach();
  }

  void serve(uint32_t worker) {
    uint64_t seen = 0;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (worker > n_wanted_) continue;
      }
      work(worker);
      const std::lock_guard lock(mutex_);
      if (--n_running_ == 0) done_.notify_one();
    }
  }

  void work(uint32_t worker) {
    if (!runners_[worker]) runners_[worker] = std::make_unique<BlockRunner>();
    const ImageCopy& copy = module_->copy(worker);
    while (true) {
      const uint64_t at = next_.fetch_add(1);
      if (at >= n_blocks_) return;
      const uint64_t i = block_at(at);
      const uint32_t idx[3] = {static_cast<uint32_t>(i % job_->grid[0]), static_cast<uint32_t>(i / job_->grid[0] % job_->grid[1]),
                               static_cast<uint32_t>(i / (uint64_t{job_->grid[0]} * job_->grid[1]))};
      KernelFault fault;
      if (!runners_[worker]->run(*job_, copy, module_->shared(), idx, fault)) {
        const std::lock_guard lock(mutex_);
        if (fault_.code == 0) fault_ = fault;
        next_ = n_blocks_;
      }
    }
  }

  /// Which earlier launches are complete when this one starts, and which once it has waited. A programmatic launch may start
  /// while its predecessors run; griddepcontrol.wait waits for the one before, whose own wait covers those before that.
  void order_launch(const Launch& launch, LaunchJob& job) {
    remember_launch(job.launch_idx, job.name);
    DeviceShadow::instance().launch_begins(uint64_t{job.grid[0]} * job.grid[1] * job.grid[2]);
    const uint64_t before = job.launch_idx - 1;
    if (!launch.is_programmatic || full_barrier_at_ == before) {
      complete_before_wait_ = complete_after_wait_ = before;
    } else {
      complete_before_wait_ = before_wait_of_previous_;
      complete_after_wait_ = previous_waited_ ? before : before_wait_of_previous_;
    }
    job.complete_before_wait = complete_before_wait_;
    job.complete_after_wait = complete_after_wait_;
    before_wait_of_previous_ = complete_before_wait_;
    if (runners_[0]) runners_[0]->launch_begins();
  }

  /// Blocks may run in any order; a stride that shares no factor with their number visits each once.
  void choose_order() {
    const Config& c = config();
    stride_ = 1;
    if (c.seed == 0 || n_blocks_ < 3) return;
    stride_ = 1 + (c.seed * 2654435761u + n_launches_) % (n_blocks_ - 1);
    while (std::gcd(stride_, n_blocks_) != 1) ++stride_;
  }
  uint64_t block_at(uint64_t at) const {
    if (config().is_reverse) return n_blocks_ - 1 - at;
    return stride_ == 1 ? at : at * stride_ % n_blocks_;
  }

  std::mutex launches_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::unique_ptr<BlockRunner>> runners_;
  uint32_t n_started_ = 0, n_wanted_ = 0, n_running_ = 0;
  uint64_t full_barrier_at_ = 0, complete_before_wait_ = 0, complete_after_wait_ = 0, before_wait_of_previous_ = 0;
  bool previous_waited_ = false;
  uint64_t generation_ = 0, n_blocks_ = 0, n_launches_ = 0, stride_ = 1;
  std::atomic<uint64_t> next_ = 0;
  Module* module_ = nullptr;
  const LaunchJob* job_ = nullptr;
  KernelFault fault_;
};

}  // namespace

void run_launch(const Launch& launch) { Pool::instance().run(launch); }
void note_full_barrier() {
  if (kIsChecked) Pool::instance().full_barrier();
}

int sticky_fault() { return g_sticky; }
void set_sticky_fault(int code) {
  int none = 0;
  g_sticky.compare_exchange_strong(none, code);
}

}  // namespace softgpu
