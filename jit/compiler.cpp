#include "jit/compiler.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <optional>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/base/hash.h"
#include "jit/base/log.h"

namespace sj {
namespace {

/// Owns one NVRTC program.
class Program {
 public:
  Program(const Nvrtc& nvrtc, const std::string& name, const std::string& text, std::span<const char* const> header_texts,
          std::span<const char* const> header_names)
      : nvrtc_(nvrtc) {
    check(nvrtc.nvrtcCreateProgram(&program_, text.c_str(), name.c_str(), static_cast<int>(header_texts.size()),
                                   header_texts.data(), header_names.data()),
          "nvrtcCreateProgram");
  }
  ~Program() { nvrtc_.nvrtcDestroyProgram(&program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  nvrtcResult compile(std::span<const char* const> options) {
    return nvrtc_.nvrtcCompileProgram(program_, static_cast<int>(options.size()), options.data());
  }
  std::string log() const {
    size_t n = 0;
    check(nvrtc_.nvrtcGetProgramLogSize(program_, &n), "nvrtcGetProgramLogSize");
    std::string text(n, '\0');
    check(nvrtc_.nvrtcGetProgramLog(program_, text.data()), "nvrtcGetProgramLog");
    while (!text.empty() && (text.back() == '\0' || text.back() == '\n')) text.pop_back();
    return text;
  }
  std::vector<std::byte> cubin() const {
    size_t n = 0;
    check(nvrtc_.nvrtcGetCUBINSize(program_, &n), "nvrtcGetCUBINSize");
    std::vector<std::byte> bytes(n);
    check(nvrtc_.nvrtcGetCUBIN(program_, reinterpret_cast<char*>(bytes.data())), "nvrtcGetCUBIN");
    return bytes;
  }

 private:
  void check(nvrtcResult result, const char* call) const {
    if (result != NVRTC_SUCCESS)
      throw Error(ErrorKind::kCompile, fmt::format("{} failed: {}", call, nvrtc_.nvrtcGetErrorString(result)));
  }
  const Nvrtc& nvrtc_;
  nvrtcProgram program_ = nullptr;
};

/// 120 for "sm_120f"; nullopt for anything else.
std::optional<int> arch_of(std::string_view target) {
  if (!target.starts_with("sm_")) return std::nullopt;
  int arch = 0;
  const auto [end, ec] = std::from_chars(target.data() + 3, target.data() + target.size(), arch);
  const std::string_view suffix(end, static_cast<size_t>(target.data() + target.size() - end));
  if (ec != std::errc() || !(suffix.empty() || suffix == "a" || suffix == "f")) return std::nullopt;
  return arch;
}

void require_target(const Nvrtc& nvrtc, const std::string& target) {
  const std::optional<int> arch = arch_of(target);
  if (!arch)
    throw Error(ErrorKind::kCompile, fmt::format("target {} is not of the form sm_<number>[a|f]", target));
  const bool is_known = std::find(nvrtc.supported_archs.begin(), nvrtc.supported_archs.end(), *arch) != nvrtc.supported_archs.end();
  // Family targets came with 12.9.
  if (is_known && (!target.ends_with('f') || nvrtc.version >= 12090)) return;
  throw Error(ErrorKind::kCompile,
              fmt::format("NVRTC {} ({}) does not know the target {}; it knows sm_{}; a newer NVRTC is needed (12.9 for sm_120f "
                          "and sm_121f)", nvrtc.version_text(), nvrtc.path, target, fmt::join(nvrtc.supported_archs, ", sm_")));
}

/// Options that don't change the bytes.
std::vector<std::string> neutral_options(const Nvrtc& nvrtc) {
  std::vector<std::string> options = {
      "-minimal",                      // leaves out built-in declarations that no kernel here uses
      "--modify-stack-limit=false",    // the default changes the limit of the whole process, a race between threads
      "--no-source-include",           // only the given headers, never a file of the current folder
  };
  if (nvrtc.version >= 12090) options.push_back("--no-cache");  // the cubin store is the one cache
  return options;
}

std::string dump_text(const CompileRequest& request, const SourceClosure& closure, const std::string& baked,
                      const std::vector<std::string>& options) {
  std::string text = fmt::format("// kernel  {}\n// target  {}\n// options {}\n", kernel_label(request.spec), request.target,
                                 fmt::join(options, " "));
  const auto add = [&](std::string_view name, std::string_view content) {
    text += fmt::format("\n// ==== {} ====\n{}", name, content);
  };
  add("sj_baked.h", baked);
  for (const NamedText& header : closure.headers) add(header.name, header.text);
  add(closure.entry.name, closure.entry.text);
  return text;
}

/// Where the text was written; empty when there is nowhere or it failed: the dump must not hide the error.
std::string write_dump(const std::string& dir, const KernelSpec& spec, const std::string& text) {
  if (dir.empty()) return {};
  const std::string path = fmt::format("{}/{}-{}.cu", dir, spec.entry, to_hex(hash_text(text)).substr(0, 8));
  try {
    atomic_write(path, text);
  } catch (const Error&) {
    return {};
  }
  return path;
}

/// What the known failures mean, in a sentence.
std::string_view likely_cause(std::string_view log) {
  if (log.find("nvrtc-builtins") != std::string_view::npos)
    return "; libnvrtc-builtins of the same version must lie beside libnvrtc";
  if (log.find("could not open source file") != std::string_view::npos)
    return "; device text may include only kernel_src/device, kernel_src/args and sj_baked.h";
  return {};
}

/// The number before `unit` in "..., 128 bytes smem"; 0 when `unit` does not occur.
uint32_t number_before(std::string_view text, std::string_view unit) {
  const size_t at = text.find(unit);
  if (at == std::string_view::npos) return 0;
  size_t begin = at;
  while (begin > 0 && text[begin - 1] >= '0' && text[begin - 1] <= '9') --begin;
  uint32_t value = 0;
  std::from_chars(text.data() + begin, text.data() + at, value);
  return value;
}

/// ptxas reports spilled bytes in its log only; the rest is in the image.
KernelResources resources_of(std::span<const std::byte> bytes, const std::string& entry, std::string_view log) {
  KernelResources resources = read_resources(bytes, entry);
  const size_t at = log.find("Function properties for " + entry);
  if (at == std::string_view::npos) {
    resources.spill_bytes = resources.stack_bytes;  // unknown: the worst that it can be
    return resources;
  }
  const std::string_view section = log.substr(at);
  resources.spill_bytes = number_before(section, " bytes spill stores") + number_before(section, " bytes spill loads");
  return resources;
}

/// The log without ptxas' statistics.
std::string warnings_of(std::string_view log) {
  std::string out;
  while (!log.empty()) {
    const size_t end = log.find('\n');
    const std::string_view line = log.substr(0, end);
    log = end == std::string_view::npos ? std::string_view{} : log.substr(end + 1);
    if (line.empty() || line.starts_with("ptxas info") || line.starts_with("ptxas         .")) continue;
    out += fmt::format("{}{}", out.empty() ? "" : "\n", line);
  }
  return out;
}

}  // namespace

std::vector<std::string> codegen_options(const std::string& target) {
  return {"--gpu-architecture=" + target, "-std=c++20", "--device-as-default-execution-space", "--ptxas-options=-v"};
}

Cubin compile(const Nvrtc& nvrtc, const CompileRequest& request) {
  const auto start = std::chrono::steady_clock::now();
  const std::string label = kernel_label(request.spec);
  const std::string frame = fmt::format("kernel {}@{}", label, request.target);
  require_target(nvrtc, request.target);
  const SourceClosure closure = request.sources.require_closure(request.spec.source);
  const std::string baked = baked_header(request.spec);

  // NVRTC wants zero-terminated texts; those of a SourceSet are std::string, but a view does not promise that.
  std::vector<std::string> texts = {baked};
  std::vector<std::string> names = {"sj_baked.h"};
  for (const NamedText& header : closure.headers) {
    texts.emplace_back(header.text);
    names.push_back(header.name);
  }
  std::vector<const char*> text_ptrs, name_ptrs, option_ptrs;
  for (const std::string& text : texts) text_ptrs.push_back(text.c_str());
  for (const std::string& name : names) name_ptrs.push_back(name.c_str());
  std::vector<std::string> options = codegen_options(request.target);
  for (std::string& option : neutral_options(nvrtc)) options.push_back(std::move(option));
  for (const std::string& option : options) option_ptrs.push_back(option.c_str());

  Program program(nvrtc, request.spec.source, std::string(closure.entry.text), text_ptrs, name_ptrs);
  const nvrtcResult result = program.compile(option_ptrs);
  const std::string log = program.log();
  if (result != NVRTC_SUCCESS) {
    const std::string dump = write_dump(request.dump_dir, request.spec, dump_text(request, closure, baked, options));
    throw Error(ErrorKind::kCompile,
                fmt::format("NVRTC {} can't compile kernel {} for {} from the {} texts: {}{}{}\noptions: {}\n{}", nvrtc.version_text(),
                            label, request.target, request.sources.origin(), nvrtc.nvrtcGetErrorString(result), likely_cause(log),
                            dump.empty() ? "" : "; source: " + dump, fmt::join(options, " "), log));
  }

  Cubin cubin;
  cubin.bytes = program.cubin();
  cubin.entry = request.spec.entry;
  cubin.target = request.target;
  cubin.label = label;
  cubin.compiler = "nvrtc " + nvrtc.version_text();
  try {
    cubin.resources = resources_of(cubin.bytes, cubin.entry, log);
  } catch (const Error& error) {
    throw Error(ErrorKind::kCompile, fmt::format("{} does not define extern \"C\" kernel {}: {}", request.spec.source,
                                                 request.spec.entry, error.message()), frame);
  }
  cubin.log = warnings_of(log);
  cubin.compile_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  if (cubin.resources.spill_bytes > 0 && !request.spec.may_spill)
    log_warning("jit", "kernel {}@{} spills registers: {} bytes a thread", label, request.target, cubin.resources.spill_bytes);
  return cubin;
}

}  // namespace sj
