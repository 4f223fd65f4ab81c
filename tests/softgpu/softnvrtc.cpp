// libnvrtc.so.13 of the software GPU: the NVRTC entry points that sparkjit uses, on top of the host compiler.
#include <nvrtc.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "softgpu/soft_compile.h"
#include "softgpu/soft_elf.h"

struct _nvrtcProgram {
  softgpu::CompileInput input;
  std::string log, cubin;
};

namespace {

constexpr int kArchs[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

/// Options of NVRTC that change nothing for the host compiler.
bool is_ignored(std::string_view option) {
  for (const std::string_view name :
       {"-minimal", "--minimal", "--modify-stack-limit", "-modify-stack-limit", "--no-source-include", "-no-source-include",
        "--no-cache", "-no-cache", "--device-as-default-execution-space", "-default-device", "--ptxas-options", "-Xptxas",
        "-lineinfo", "--generate-line-info", "-G", "--device-debug", "--use_fast_math", "-use_fast_math", "--maxrregcount",
        "-maxrregcount", "--relocatable-device-code", "-rdc", "--restrict", "-restrict", "--extra-device-vectorization",
        "--dopt", "-dopt", "--Ofast-compile", "-Ofast-compile", "--split-compile", "-split-compile", "--disable-warnings", "-w",
        "--diag-suppress", "--diag-error", "--ftz", "-ftz", "--prec-div", "-prec-div", "--prec-sqrt", "-prec-sqrt"})
    if (option == name || (option.starts_with(name) && option[name.size()] == '=')) return true;
  return false;
}

bool read_options(int n, const char* const* options, _nvrtcProgram& program) {
  softgpu::CompileInput& input = program.input;
  input.arch = 75;
  input.defines.clear();
  for (int i = 0; i < n; ++i) {
    std::string_view option = options[i];
    std::string_view arch;
    if (const size_t at = option.find('='); option.starts_with("--gpu-architecture") || option.starts_with("-arch")) {
      if (at != std::string_view::npos) arch = option.substr(at + 1);
      else if (i + 1 < n) arch = options[++i];
      const size_t digits = arch.find('_') + 1;
      std::from_chars(arch.data() + digits, arch.data() + arch.size(), input.arch);
      if (std::find(std::begin(kArchs), std::end(kArchs), static_cast<int>(input.arch)) == std::end(kArchs)) {
        program.log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
        return false;
      }
    } else if (option.starts_with("-std=") || option.starts_with("--std=")) {
      input.standard = "-std=" + std::string(option.substr(at + 1));
    } else if (option.starts_with("-D")) {
      input.defines.emplace_back(option);
      if (option == "-D" && i + 1 < n) input.defines.back() += options[++i];
    } else if (option.starts_with("--define-macro=")) {
      input.defines.push_back("-D" + std::string(option.substr(at + 1)));
    } else if (option == "--fmad=false" || option == "-fmad=false") {
      input.is_fma_allowed = false;
    } else if (!is_ignored(option) && option != "--fmad=true" && option != "-fmad=true") {
      program.log = "nvrtc: error: unrecognized option " + std::string(option) + " found\n";
      return false;
    }
  }
  return true;
}

nvrtcResult copy_out(const std::string& text, char* out, bool with_zero) {
  if (out == nullptr) return NVRTC_ERROR_INVALID_INPUT;
  std::memcpy(out, text.c_str(), text.size() + (with_zero ? 1 : 0));
  return NVRTC_SUCCESS;
}

}  // namespace

#define SOFT_API extern "C" __attribute__((visibility("default")))

SOFT_API const char* nvrtcGetErrorString(nvrtcResult result) {
  switch (result) {
    case NVRTC_SUCCESS: return "NVRTC_SUCCESS";
    case NVRTC_ERROR_INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case NVRTC_ERROR_INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case NVRTC_ERROR_INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case NVRTC_ERROR_COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR unknown";
  }
}

SOFT_API nvrtcResult nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return NVRTC_SUCCESS;
}

SOFT_API nvrtcResult nvrtcGetNumSupportedArchs(int* n) {
  *n = static_cast<int>(std::size(kArchs));
  return NVRTC_SUCCESS;
}

SOFT_API nvrtcResult nvrtcGetSupportedArchs(int* archs) {
  std::copy(std::begin(kArchs), std::end(kArchs), archs);
  return NVRTC_SUCCESS;
}

SOFT_API nvrtcResult nvrtcCreateProgram(nvrtcProgram* out, const char* text, const char* name, int n_headers,
                                        const char* const* headers, const char* const* header_names) {
  if (out == nullptr || text == nullptr || n_headers < 0) return NVRTC_ERROR_INVALID_INPUT;
  auto program = std::make_unique<_nvrtcProgram>();
  program->input.text = text;
  program->input.name = name == nullptr || *name == '\0' ? "default_program" : name;
  for (int i = 0; i < n_headers; ++i) program->input.headers[header_names[i]] = headers[i];
  *out = program.release();
  return NVRTC_SUCCESS;
}

SOFT_API nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) {
  if (program == nullptr || *program == nullptr) return NVRTC_ERROR_INVALID_PROGRAM;
  delete *program;
  *program = nullptr;
  return NVRTC_SUCCESS;
}

SOFT_API nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int n_options, const char* const* options) {
  if (program == nullptr) return NVRTC_ERROR_INVALID_PROGRAM;
  program->log.clear();
  program->cubin.clear();
  if (!read_options(n_options, options, *program)) return NVRTC_ERROR_INVALID_OPTION;
  softgpu::CompileOutput output = softgpu::compile_for_host(program->input);
  program->log = output.log;
  if (output.image.empty()) return NVRTC_ERROR_COMPILATION;
  uint64_t shared_bytes = 0;
  for (const softgpu::SharedVariable& variable : softgpu::shared_variables(output.image, softgpu::shared_padding_bytes()))
    shared_bytes = (shared_bytes + 15) / 16 * 16 + variable.size_bytes;
  program->cubin = softgpu::write_cubin({program->input.arch, output.entries, shared_bytes, std::move(output.image)});
  return NVRTC_SUCCESS;
}

SOFT_API nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t* n) {
  if (program == nullptr) return NVRTC_ERROR_INVALID_PROGRAM;
  *n = program->cubin.size();
  return NVRTC_SUCCESS;
}
SOFT_API nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* out) {
  return program == nullptr ? NVRTC_ERROR_INVALID_PROGRAM : copy_out(program->cubin, out, false);
}
SOFT_API nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t* n) {
  if (program == nullptr) return NVRTC_ERROR_INVALID_PROGRAM;
  *n = program->log.size() + 1;
  return NVRTC_SUCCESS;
}
SOFT_API nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char* out) {
  return program == nullptr ? NVRTC_ERROR_INVALID_PROGRAM : copy_out(program->log, out, true);
}
