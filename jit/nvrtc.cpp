#include "jit/nvrtc.h"

#include <dlfcn.h>
#include <elf.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <link.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <algorithm>

#include "jit/base/error.h"
#include "jit/driver.h"

namespace sj {
namespace {

constexpr int kOldestCompiler = 12080;  // 12.8 is the first that knows sm_120

/// Places to try, in order. Names without a slash go through the loader's own search (LD_LIBRARY_PATH, ld.so.cache).
std::vector<std::string> candidate_paths() {
  std::vector<std::string> paths = {"libnvrtc.so.13", "libnvrtc.so.12"};
  for (const char* dir : {"/usr/local/cuda/lib64", "/opt/cuda/lib64"})
    for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12"}) paths.push_back(fmt::format("{}/{}", dir, name));
  // pip: <prefix>/lib/python3.X/{site,dist}-packages/nvidia/{cu13,cuda_nvrtc}/lib
  namespace fs = std::filesystem;
  for (const char* prefix : {"/usr/local/lib", "/usr/lib", "/opt/conda/lib"}) {
    std::error_code ec;
    for (const fs::directory_entry& python : fs::directory_iterator(prefix, ec)) {
      if (!python.path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"})
        for (const char* lib : {"nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"})
          if (const fs::path file = python.path() / packages / lib; fs::exists(file, ec)) paths.push_back(file.string());
    }
  }
  return paths;
}

/// Hex of the GNU build id of the loaded object whose file name contains `name`; empty when it has none.
std::string loaded_build_id(const std::string& name) {
  struct Search {
    const std::string& name;
    std::string id;
  } search = {name, {}};
  const auto visit = [](dl_phdr_info* info, size_t, void* data) {
    auto& wanted = *static_cast<Search*>(data);
    if (info->dlpi_name == nullptr || std::strstr(info->dlpi_name, wanted.name.c_str()) == nullptr) return 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = info->dlpi_phdr[i];
      if (segment.p_type != PT_NOTE) continue;
      const char* note = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
      const char* const end = note + segment.p_memsz;
      while (note + sizeof(ElfW(Nhdr)) <= end) {
        ElfW(Nhdr) header;
        std::memcpy(&header, note, sizeof header);
        const char* const owner = note + sizeof header;
        const char* const content = owner + ((header.n_namesz + 3) & ~3u);
        if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 && std::memcmp(owner, "GNU", 4) == 0) {
          for (uint32_t b = 0; b < header.n_descsz; ++b)
            wanted.id += fmt::format("{:02x}", static_cast<unsigned char>(content[b]));
          return 1;
        }
        note = content + ((header.n_descsz + 3) & ~3u);
      }
    }
    return 1;
  };
  ::dl_iterate_phdr(visit, &search);
  return search.id;
}

/// The builtins are a second library that the first opens at its first compile; opening it early, from beside the first,
/// makes its identity known without a compile. Missing builtins are reported by that first compile.
std::string builtins_build_id(const std::string& nvrtc_path, int version) {
  const std::string name = "libnvrtc-builtins.so." + cuda_version_text(version);
  const std::string beside = (std::filesystem::path(nvrtc_path).parent_path() / name).string();
  if (::dlopen(beside.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  return loaded_build_id(name);
}

/// Null with the reason in `why`.
std::unique_ptr<Nvrtc> open_nvrtc(const std::string& path, std::string& why) {
  void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    why = ::dlerror();
    return nullptr;
  }
  auto nvrtc = std::make_unique<Nvrtc>();
  std::string missing;
#define SJ_NVRTC_LOAD(name)                                                             \
  nvrtc->name = reinterpret_cast<decltype(nvrtc->name)>(::dlsym(handle, #name));        \
  if (nvrtc->name == nullptr && missing.empty()) missing = #name;
  SJ_NVRTC_CALLS(SJ_NVRTC_LOAD)
#undef SJ_NVRTC_LOAD
  if (!missing.empty()) {
    why = fmt::format("{}: has no function {}", path, missing);
    ::dlclose(handle);
    return nullptr;
  }
  int major = 0, minor = 0;
  nvrtc->nvrtcVersion(&major, &minor);
  nvrtc->version = 1000 * major + 10 * minor;
  if (nvrtc->version < kOldestCompiler) {
    why = fmt::format("{} is version {}, and 12.8 or newer is needed", path, nvrtc->version_text());
    ::dlclose(handle);
    return nullptr;
  }
  Dl_info info = {};
  const bool has_info = ::dladdr(reinterpret_cast<void*>(nvrtc->nvrtcVersion), &info) != 0 && info.dli_fname != nullptr;
  nvrtc->path = has_info ? info.dli_fname : path;
  int n_archs = 0;
  nvrtc->nvrtcGetNumSupportedArchs(&n_archs);
  nvrtc->supported_archs.resize(static_cast<size_t>(std::max(0, n_archs)));
  if (n_archs > 0) nvrtc->nvrtcGetSupportedArchs(nvrtc->supported_archs.data());
  nvrtc->build_id = loaded_build_id(nvrtc->path) + "/" + builtins_build_id(nvrtc->path, nvrtc->version);
  return nvrtc;
}

struct Opened {
  std::unique_ptr<Nvrtc> nvrtc;
  std::string why;
};

Opened open_first(const std::string& path) {
  Opened opened;
  if (!path.empty()) {
    opened.nvrtc = open_nvrtc(path, opened.why);
    return opened;
  }
  std::string first_real_reason, first_reason;
  for (const std::string& candidate : candidate_paths()) {
    std::string why;
    opened.nvrtc = open_nvrtc(candidate, why);
    if (opened.nvrtc) return opened;
    if (first_reason.empty()) first_reason = why;
    // "No such file" says little; a library that is there and refused says more.
    if (first_real_reason.empty() && why.find("No such file") == std::string::npos) first_real_reason = why;
  }
  opened.why = first_real_reason.empty() ? first_reason : first_real_reason;
  return opened;
}

}  // namespace

std::string Nvrtc::version_text() const { return cuda_version_text(version); }

const Nvrtc* find_nvrtc(const std::string& path, std::string* why) {
  static std::mutex mutex;
  static auto* const by_path = new std::map<std::string, Opened>;  // NVRTC is never unloaded: its threads outlive main
  const std::lock_guard lock(mutex);
  auto it = by_path->find(path);
  if (it == by_path->end()) it = by_path->emplace(path, open_first(path)).first;
  if (why != nullptr) *why = it->second.why;
  return it->second.nvrtc.get();
}

const Nvrtc& require_nvrtc(const std::string& path) {
  std::string why;
  if (const Nvrtc* nvrtc = find_nvrtc(path, &why)) return *nvrtc;
  throw Error(ErrorKind::kCompile,
              fmt::format("a kernel must be compiled and NVRTC can't be opened: {}; install CUDA 12.8 or newer (or `pip "
                          "install nvidia-cuda-nvrtc`), or name the library with --libnvrtc", why));
}

}  // namespace sj
