#include "jit/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "jit/base/log.h"

namespace sj {
namespace {

constexpr int kOldestDriver = 12080;  // cuEventElapsedTime_v2 and Blackwell cubins need the API of 12.8

#define SJ_STRING_OF(name) #name
#define SJ_SYMBOL_OF(name) SJ_STRING_OF(name)

/// Null with the reason in `why`.
std::unique_ptr<Driver> open_driver(const std::string& path, std::string& why) {
  void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    why = fmt::format("can't open the NVIDIA driver library: {}", ::dlerror());
    return nullptr;
  }
  auto drv = std::make_unique<Driver>();
  std::string missing;
#define SJ_DRIVER_LOAD(name)                                                                  \
  drv->name = reinterpret_cast<decltype(drv->name)>(::dlsym(handle, SJ_SYMBOL_OF(name)));     \
  if (drv->name == nullptr && missing.empty()) missing = SJ_SYMBOL_OF(name);
  SJ_DRIVER_CALLS(SJ_DRIVER_LOAD)
#undef SJ_DRIVER_LOAD
  Dl_info info = {};
  const bool has_info = drv->cuInit != nullptr && ::dladdr(reinterpret_cast<void*>(drv->cuInit), &info) != 0;
  drv->path = has_info && info.dli_fname != nullptr ? info.dli_fname : path;
  // The age first: it is why a function is missing, and says what to do.
  if (drv->cuDriverGetVersion == nullptr || drv->cuDriverGetVersion(&drv->version) != CUDA_SUCCESS) {
    why = fmt::format("{} is not an NVIDIA driver library (no usable cuDriverGetVersion)", path);
    return nullptr;
  }
  if (drv->version < kOldestDriver) {
    why = fmt::format("the NVIDIA driver ({}) is too old: it serves CUDA {}, and 12.8 or newer is needed (driver 570 or newer)",
                      drv->path, cuda_version_text(drv->version));
    return nullptr;
  }
  if (!missing.empty()) {
    why = fmt::format("the NVIDIA driver ({}) has no function {}", drv->path, missing);
    return nullptr;
  }
  if (const CUresult result = drv->cuInit(0); result != CUDA_SUCCESS) {
    why = result == CUDA_ERROR_NO_DEVICE ? fmt::format("the NVIDIA driver ({}) finds no CUDA device", drv->path)
                                         : fmt::format("cuInit of {} failed: {}", drv->path, drv->result_text(result));
    return nullptr;
  }
  int n_devices = 0;
  if (const CUresult result = drv->cuDeviceGetCount(&n_devices); result != CUDA_SUCCESS || n_devices == 0) {
    why = fmt::format("the NVIDIA driver ({}) finds no CUDA device", drv->path);
    return nullptr;
  }
  return drv;
}

}  // namespace

std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string Driver::result_text(CUresult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr)
    return fmt::format("unknown error {}", static_cast<int>(result));
  if (cuGetErrorString(result, &text) != CUDA_SUCCESS || text == nullptr) return name;
  return fmt::format("{} ({})", name, text);
}

void Driver::log_failure(CUresult result, const char* call) const noexcept {
  if (result == CUDA_SUCCESS || result == CUDA_ERROR_DEINITIALIZED) return;
  try {
    // After a sticky error every release fails with it, and two dozen equal lines would bury the error itself.
    static std::mutex mutex;
    static std::set<CUresult> reported;
    const std::lock_guard lock(mutex);
    if (reported.insert(result).second)
      log_warning("cuda", "{} failed: {}; further releases that fail so are not reported", call, result_text(result));
    else log_debug("cuda", "{} failed: {}", call, result_text(result));
  } catch (...) {
    // A destructor is calling: there is nobody to tell.
  }
}

void Driver::check(CUresult result, const char* call, std::string_view context) const {
  if (result == CUDA_SUCCESS) return;
  throw Error(ErrorKind::kCuda, fmt::format("{} failed: {}", call, result_text(result)), std::string(context));
}

const Driver* find_driver(const std::string& path, std::string* why) {
  struct Opened {
    std::unique_ptr<Driver> driver;
    std::string why;
  };
  static std::mutex mutex;
  static auto* const by_path = new std::map<std::string, Opened>;  // the driver is never closed
  const std::lock_guard lock(mutex);
  auto it = by_path->find(path);
  if (it == by_path->end()) {
    it = by_path->emplace(path, Opened{}).first;
    it->second.driver = open_driver(path.empty() ? "libcuda.so.1" : path, it->second.why);
  }
  if (why != nullptr) *why = it->second.why;
  return it->second.driver.get();
}

const Driver& require_driver(const std::string& path) {
  std::string why;
  if (const Driver* drv = find_driver(path, &why)) return *drv;
  throw Error(ErrorKind::kCuda, fmt::format("no CUDA device can be used: {}; install the NVIDIA driver 570 or newer, or use "
                                            "--device cpu", why));
}

int device_count(const Driver& drv) {
  int n = 0;
  drv.check(drv.cuDeviceGetCount(&n), "cuDeviceGetCount");
  return n;
}

template <>
void Owned<CUstream>::release() noexcept {
  if (handle_ != nullptr) drv_->log_failure(drv_->cuStreamDestroy(handle_), "cuStreamDestroy");
  handle_ = nullptr;
}
template <>
void Owned<CUevent>::release() noexcept {
  if (handle_ != nullptr) drv_->log_failure(drv_->cuEventDestroy(handle_), "cuEventDestroy");
  handle_ = nullptr;
}
template <>
void Owned<CUgraph>::release() noexcept {
  if (handle_ != nullptr) drv_->log_failure(drv_->cuGraphDestroy(handle_), "cuGraphDestroy");
  handle_ = nullptr;
}
template <>
void Owned<CUgraphExec>::release() noexcept {
  if (handle_ != nullptr) drv_->log_failure(drv_->cuGraphExecDestroy(handle_), "cuGraphExecDestroy");
  handle_ = nullptr;
}

Context::Context(const Driver& drv, int ordinal) : drv_(&drv), ordinal_(ordinal) {
  const int n = device_count(drv);
  if (ordinal < 0 || ordinal >= n)
    throw Error(ErrorKind::kCuda, fmt::format("no CUDA device {}: there {} {} (0 to {})", ordinal, n == 1 ? "is" : "are", n, n - 1));
  drv.check(drv.cuDeviceGet(&device_, ordinal), "cuDeviceGet", fmt::format("device {}", ordinal));
  drv.check(drv.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain", fmt::format("device {}", ordinal));
  try {
    make_current();
  } catch (...) {
    release();
    throw;
  }
}

Context::Context(Context&& other) noexcept
    : drv_(other.drv_), device_(other.device_), context_(std::exchange(other.context_, nullptr)), ordinal_(other.ordinal_) {}

Context& Context::operator=(Context&& other) noexcept {
  if (this != &other) {
    release();
    drv_ = other.drv_;
    device_ = other.device_;
    context_ = std::exchange(other.context_, nullptr);
    ordinal_ = other.ordinal_;
  }
  return *this;
}

Context::~Context() { release(); }

void Context::release() noexcept {
  if (context_ != nullptr) drv_->log_failure(drv_->cuDevicePrimaryCtxRelease(device_), "cuDevicePrimaryCtxRelease");
  context_ = nullptr;
}

void Context::make_current() const { drv_->check(drv_->cuCtxSetCurrent(context_), "cuCtxSetCurrent"); }

namespace {

CUstream make_stream(const Driver& drv) {
  CUstream stream = nullptr;
  drv.check(drv.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  return stream;
}

CUevent make_event(const Driver& drv, bool timing) {
  CUevent event = nullptr;
  drv.check(drv.cuEventCreate(&event, timing ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  return event;
}

CUgraphExec instantiate(const Graph& graph) {
  CUgraphExec exec = nullptr;
  const Driver& drv = graph.driver();
  const std::string size = fmt::format("{} nodes", graph.n_nodes());   // may throw: asked while there is nothing to lose
  drv.check(drv.cuGraphInstantiate(&exec, graph.get(), 0), "cuGraphInstantiate", size);
  return exec;
}

}  // namespace

Stream::Stream(const Driver& drv) : Owned(drv, make_stream(drv)) {}

void Stream::synchronize(std::string_view context) const {
  driver().check(driver().cuStreamSynchronize(get()), "cuStreamSynchronize", context);
}

bool Stream::is_done() const {
  const CUresult result = driver().cuStreamQuery(get());
  if (result == CUDA_ERROR_NOT_READY) return false;
  driver().check(result, "cuStreamQuery");
  return true;
}

Event::Event(const Driver& drv, bool timing) : Owned(drv, make_event(drv, timing)) {}

void Event::record(const Stream& stream) const { driver().check(driver().cuEventRecord(get(), stream.get()), "cuEventRecord"); }

void Event::synchronize() const { driver().check(driver().cuEventSynchronize(get()), "cuEventSynchronize"); }

bool Event::is_done() const {
  const CUresult result = driver().cuEventQuery(get());
  if (result == CUDA_ERROR_NOT_READY) return false;
  driver().check(result, "cuEventQuery");
  return true;
}

double Event::elapsed_us(const Event& start) const {
  float ms = 0;
  driver().check(driver().cuEventElapsedTime(&ms, start.get(), get()), "cuEventElapsedTime");
  return 1000.0 * static_cast<double>(ms);
}

void wait_event(const Stream& stream, const Event& event) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuStreamWaitEvent(stream.get(), event.get(), CU_EVENT_WAIT_DEFAULT), "cuStreamWaitEvent");
}

uint64_t Graph::n_nodes() const {
  size_t n = 0;
  driver().check(driver().cuGraphGetNodes(get(), nullptr, &n), "cuGraphGetNodes");
  return n;
}

Graph capture_graph(const Stream& stream, const std::function<void()>& enqueue) {
  const Driver& drv = stream.driver();
  drv.check(drv.cuStreamBeginCapture(stream.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
  CUgraph graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    // The stream must leave capture mode; the error on its way up says more than what ending returns.
    if (drv.cuStreamEndCapture(stream.get(), &graph) == CUDA_SUCCESS && graph != nullptr) const Graph discarded(drv, graph);
    throw;
  }
  drv.check(drv.cuStreamEndCapture(stream.get(), &graph), "cuStreamEndCapture");
  return Graph(drv, graph);
}

GraphExec::GraphExec(const Graph& graph) : Owned(graph.driver(), instantiate(graph)) {}

void GraphExec::upload(const Stream& stream) const {
  driver().check(driver().cuGraphUpload(get(), stream.get()), "cuGraphUpload");
}

void GraphExec::launch(const Stream& stream) const {
  driver().check(driver().cuGraphLaunch(get(), stream.get()), "cuGraphLaunch");
}

}  // namespace sj
