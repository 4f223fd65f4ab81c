// The door to libnvrtc.so: opened with dlopen, a table of typed functions, version and build identity. It may be absent:
// cached and bundled cubins need no compiler. Called by compiler, cache and doctor.
#pragma once

#include <nvrtc.h>

#include <string>
#include <vector>

namespace sj {

#define SJ_NVRTC_CALLS(X)                                                                                        \
  X(nvrtcVersion) X(nvrtcGetNumSupportedArchs) X(nvrtcGetSupportedArchs) X(nvrtcGetErrorString)                  \
  X(nvrtcCreateProgram) X(nvrtcDestroyProgram) X(nvrtcCompileProgram) X(nvrtcGetCUBINSize) X(nvrtcGetCUBIN)      \
  X(nvrtcGetProgramLogSize) X(nvrtcGetProgramLog)

struct Nvrtc {
#define SJ_NVRTC_MEMBER(name) decltype(&::name) name = nullptr;
  SJ_NVRTC_CALLS(SJ_NVRTC_MEMBER)
#undef SJ_NVRTC_MEMBER
  std::string path;                  ///< file that was opened
  int version = 0;                   ///< 1000 * major + 10 * minor
  std::string build_id;              ///< ELF build ids of the library and of its builtins: 13.0.88 differs from 13.0.48
  std::vector<int> supported_archs;  ///< 90, 120, 121, ...: compute capabilities it compiles for

  std::string version_text() const;  ///< "13.0"
};

/// The compiler at `path` (empty: libnvrtc.so.13, then .12, by the loader's rules, in /usr/local/cuda/lib64, then in the
/// folders where NVIDIA's Python packages put it), opened once a path; null with the reason in `why` when there is none
/// or it is older than 12.8. Thread-safe.
const Nvrtc* find_nvrtc(const std::string& path = {}, std::string* why = nullptr);
/// The same; throws kCompile with the reason and what to install.
const Nvrtc& require_nvrtc(const std::string& path = {});

}  // namespace sj
