#include "softgpu/soft_compile.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

#include "soft_texts.h"  // generated: kSoftImageText, kPreludeText, kSoftPtxText, kHooksText
#include "softgpu/soft_checks.h"
#include "softgpu/soft_image_cache.h"

extern char** environ;

namespace softgpu {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPadding = kIsChecked ? 64 : 0;
constexpr const char* kMainFile = "softgpu-main.cpp";

/// Removed with everything in it when it goes out of scope.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "softnvrtc-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code ec;
    if (!path_.empty()) fs::remove_all(path_, ec);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// The text with comments blanked out; strings stay. Only for finding declarations.
std::string without_comments(const std::string& text) {
  std::string out = text;
  for (size_t i = 0; i + 1 < out.size(); ++i) {
    if (out[i] == '"') {
      for (++i; i < out.size() && out[i] != '"'; ++i)
        if (out[i] == '\\') ++i;
    } else if (out[i] == '/' && out[i + 1] == '/') {
      while (i < out.size() && out[i] != '\n') out[i++] = ' ';
    } else if (out[i] == '/' && out[i + 1] == '*') {
      while (i + 1 < out.size() && !(out[i] == '*' && out[i + 1] == '/')) {
        if (out[i] != '\n') out[i] = ' ';
        ++i;
      }
      if (i + 1 < out.size()) out[i] = out[i + 1] = ' ';
    }
  }
  return out;
}

/// Names of the __global__ functions: the last identifier before the parameter list.
std::vector<std::string> find_entries(const std::string& text) {
  std::vector<std::string> entries;
  const std::string clean = without_comments(text);
  for (size_t at = clean.find("__global__"); at != std::string::npos; at = clean.find("__global__", at + 1)) {
    std::string word;
    size_t i = at + 10;
    while (i < clean.size() && clean[i] != ';' && clean[i] != '{') {
      const char c = clean[i];
      if (std::isalnum(static_cast<unsigned char>(c)) || c == '_') {
        word.clear();
        while (i < clean.size() && (std::isalnum(static_cast<unsigned char>(clean[i])) || clean[i] == '_')) word += clean[i++];
      } else if (c == '(') {
        if (word != "__launch_bounds__" && word != "__attribute__" && word != "__maxnreg__" && word != "__cluster_dims__") {
          entries.push_back(word);
          break;
        }
        for (int depth = 0; i < clean.size();) {
          depth += clean[i] == '(' ? 1 : clean[i] == ')' ? -1 : 0;
          ++i;
          if (depth == 0) break;
        }
      } else {
        ++i;
      }
    }
  }
  return entries;
}

/// Namespaces that lie in no other: naming an inner one would make its name ambiguous. `text` has no comments.
std::set<std::string> find_namespaces(const std::string& text) {
  constexpr std::string_view kKeyword = "namespace", kSpace = " \t\n";
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  std::set<std::string> names;
  int depth = 0;
  size_t counted = 0;
  for (size_t at = text.find(kKeyword); at != std::string::npos; at = text.find(kKeyword, at + 1)) {
    const size_t begin = text.find_first_not_of(kSpace, at + kKeyword.size());
    if ((at > 0 && is_word(text[at - 1])) || begin == std::string::npos || begin == at + kKeyword.size()) continue;
    size_t end = begin;
    while (end < text.size() && (is_word(text[end]) || text[end] == ':')) ++end;
    const size_t brace = text.find_first_not_of(kSpace, end);
    if (end == begin || brace == std::string::npos || text[brace] != '{') continue;   // unnamed, an alias or a directive
    for (; counted < at; ++counted) depth += text[counted] == '{' ? 1 : text[counted] == '}' ? -1 : 0;
    if (depth == 0) names.insert(text.substr(begin, end - begin));
  }
  return names;
}

/// `extern __shared__ T name[];` names the image's one dynamic array.
std::string with_dynamic_shared(const std::string& text) {
  constexpr std::string_view kExtern = "extern ", kShared = "__shared__ ";
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(kExtern); at != std::string::npos; at = text.find(kExtern, at + 1)) {
    const size_t type = at + kExtern.size() + kShared.size(), end = text.find(';', at);
    if (text.compare(at + kExtern.size(), kShared.size(), kShared) != 0 || end == std::string::npos || text[end - 1] != ']') continue;
    out.append(text, done, at + kExtern.size() - done).append(text, type, end - type).append(" __asm__(\"soft_dynamic_shared\")");
    done = end;
  }
  return out.append(text, done);
}

std::string trampolines(const std::vector<std::string>& entries, const std::set<std::string>& namespaces) {
  std::ostringstream out;
  out << "\n#line 1 \"softgpu-trampolines\"\n" << (kIsChecked ? "#include \"soft_hooks.h\"\n" : "")
      <<
         "extern \"C\" { const SoftThread* soft_current; SoftBlock soft_block; const SoftOps* soft_ops;\n"
         "alignas(1024) char soft_dynamic_shared[kSoftDynamicBytes]; }\n"
         "template <int... I> struct SoftIndices {};\n"
         "template <int N, int... I> struct SoftMakeIndices : SoftMakeIndices<N - 1, N - 1, I...> {};\n"
         "template <int... I> struct SoftMakeIndices<0, I...> { using type = SoftIndices<I...>; };\n"
         "template <class T> struct SoftPlain { using type = T; };\n"
         "template <class T> struct SoftPlain<const T> { using type = T; };\n"
         "template <auto F, class S> struct SoftEntry;\n"
         "template <class... A, void (*F)(A...)> struct SoftEntry<F, void (*)(A...)> {\n"
         "  static constexpr int kCount = sizeof...(A);\n"
         "  struct Params { SoftParam p[kCount + 1]; };\n"
         "  static constexpr Params make() {\n"
         "    Params all = {}; unsigned long offset = 0; int i = 0;\n"
         "    ((offset = (offset + alignof(A) - 1) / alignof(A) * alignof(A), all.p[i].offset = offset,\n"
         "      all.p[i].size = sizeof(A), offset += sizeof(A), ++i), ...);\n"
         "    return all;\n"
         "  }\n"
         "  static constexpr Params kParams = make();\n"
         "  template <int... I> SOFT_UNCHECKED static void call_with(void** p, SoftIndices<I...>) {\n"
         "    F(*static_cast<typename SoftPlain<A>::type*>(p[I])...);\n"
         "  }\n"
         "  SOFT_UNCHECKED static void call(void** p) { call_with(p, typename SoftMakeIndices<kCount>::type()); }\n"
         "};\n";
  for (const std::string& name : namespaces) out << "namespace " << name << " {}\nusing namespace " << name << ";\n";
  out << "static const SoftKernel soft_kernels[] = {\n";
  for (const std::string& entry : entries)
    out << "  {\"" << entry << "\", &SoftEntry<&" << entry << ", decltype(&" << entry << ")>::call, SoftEntry<&" << entry
        << ", decltype(&" << entry << ")>::kCount, SoftEntry<&" << entry << ", decltype(&" << entry << ")>::kParams.p},\n";
  out << "  {nullptr, nullptr, 0, nullptr}};\n"
         "extern \"C\" __attribute__((visibility(\"default\"))) const SoftImage soft_image;\n"
         "const SoftImage soft_image = {kSoftImageMagic, kSoftImageVersion, "
      << (kIsChecked ? 1 : 0) << ", soft_kernels, " << entries.size()
      << ", &soft_current, &soft_block, &soft_ops, soft_dynamic_shared};\n";
  return out.str();
}

/// Exit status; stdout and stderr into `log`.
int run_compiler(const std::vector<std::string>& args, const fs::path& folder, std::string& log) {
  const fs::path log_path = folder / "softgpu-log";
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  ::posix_spawn_file_actions_addopen(&actions, 1, log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  std::vector<char*> argv;
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  // The compiler must find its own libraries: the doubles' folder and sanitizer settings are not for it.
  std::vector<char*> env;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("LD_LIBRARY_PATH=") && !text.starts_with("LD_PRELOAD=")) env.push_back(*variable);
  }
  std::string messages = "LC_ALL=C";
  env.push_back(messages.data());
  env.push_back(nullptr);
  pid_t pid = 0;
  int status = 127 << 8;
  if (::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), env.data()) == 0) {
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  } else {
    log += "softnvrtc: can't start " + args[0] + "\n";
  }
  ::posix_spawn_file_actions_destroy(&actions);
  log += read_text(log_path);
  return status;
}

/// "a.cu:3:7: error: text" becomes "a.cu(3): error: text", as NVRTC writes it.
std::string nvrtc_log(const std::string& log) {
  std::istringstream in(log);
  std::string out, line;
  while (std::getline(in, line)) {
    for (const std::string_view kind : {"error: ", "warning: ", "note: "}) {
      const size_t text = line.find(kind), place = line.find(": ");
      if (text == std::string::npos || place == std::string::npos || place > text) continue;
      std::istringstream parts(line.substr(0, place));
      std::string name, number;
      if (std::getline(parts, name, ':') && std::getline(parts, number, ':') && !number.empty())
        line = name + "(" + number + "): " + line.substr(text);
      break;
    }
    out += line + "\n";
  }
  return out;
}

/// Makes room after every shared variable, so that an index one too far hits nothing. A line is ".comm name,size,alignment".
std::string with_padded_shared(const std::string& assembly) {
  std::istringstream in(assembly);
  std::ostringstream out;
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string directive, name, size, alignment;
    if (line.find(".comm") != std::string::npos && words >> directive && directive == ".comm" && std::getline(words >> std::ws, name, ',') &&
        std::getline(words, size, ',') && std::getline(words, alignment) && !name.starts_with("soft_"))
      line = "\t.comm\t" + name + "," + std::to_string(std::stoull(size) + kPadding) + "," +
             std::to_string(std::max<uint64_t>(16, std::stoull(alignment)));
    out << line << '\n';
  }
  return out.str();
}

/// The digit of -O: SOFTNVRTC_OPTIMIZE, for kernels that run for less time than g++ would optimise them.
std::string optimization() {
  const char* const chosen = std::getenv("SOFTNVRTC_OPTIMIZE");
  return chosen != nullptr ? chosen : kIsChecked ? "1" : "2";
}

std::vector<std::string> compiler_flags(const CompileInput& in) {
  std::vector<std::string> flags = {SOFTNVRTC_CXX, "-x", "c++", in.standard, "-O" + optimization(), "-g1", "-fPIC", "-w", "-I.",
                                    "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing",
                                    "-fno-gnu-unique", "-fno-threadsafe-statics", "-fwrapv", "-fno-math-errno",
                                    "-fno-trapping-math", "-fno-asynchronous-unwind-tables",
                                    "-DSOFT_CUDA_ARCH=" + std::to_string(in.arch * 10)};
  flags.push_back(in.is_fma_allowed ? "-ffp-contract=fast" : "-ffp-contract=off");
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) flags.push_back("-march=x86-64-v3");
#endif
  if (kIsChecked) {
    flags.insert(flags.end(), {"-fsanitize=thread", "-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"});
    flags.push_back("-DSOFT_CHECKED");
  }
#if defined(SOFT_ASAN)
  // In a sanitized build the fast pair's device code is sanitized like the rest: the process has the run time libraries.
  if (!kIsChecked)
    flags.insert(flags.end(), {"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
                               "--param", "asan-instrumentation-with-call-threshold=0",   // checks as calls: a fifth fewer instructions of g++
                               // a third of the compile time, for what AddressSanitizer sees too or device text does not have
                               "-fno-sanitize=null,vptr,return,unreachable,vla-bound,pointer-overflow,nonnull-attribute,"
                               "returns-nonnull-attribute"});
#endif
  flags.insert(flags.end(), in.defines.begin(), in.defines.end());
  return flags;
}

/// Everything that decides the image: the compiler, its flags and all texts.
std::string image_key(const std::vector<std::string>& flags, const std::map<fs::path, std::string>& files) {
  static const std::string compiler = [] {
    std::error_code ec;
    const fs::path path = fs::canonical(SOFTNVRTC_CXX, ec);
    return path.string() + " " + std::to_string(fs::file_size(path, ec)) + " " +
           std::to_string(fs::last_write_time(path, ec).time_since_epoch().count()) + " padding " + std::to_string(kPadding);
  }();
  std::string key = compiler + "\n";
  for (const std::string& flag : flags) key += flag + "\n";
  for (const auto& [name, text] : files) key += name.string() + " " + std::to_string(text.size()) + "\n" + text;
  return key;
}

std::string compile_files(const CompileInput& in, const std::map<fs::path, std::string>& files, std::string& log) {
  const ScratchFolder folder;
  if (folder.path().empty()) {
    log = "softnvrtc: can't make a scratch folder\n";
    return {};
  }
  for (const auto& [name, text] : files) write_text(folder.path() / name, text);
  std::vector<std::string> command = compiler_flags(in);
  const std::vector<std::string> link = {"-shared", "-nostartfiles", "-nodefaultlibs", "-Wl,-Bsymbolic", "-lm", "-lc", "-lgcc"};
  int status = 0;
  if (kIsChecked) {
    command.insert(command.end(), {"-S", kMainFile, "-o", "softgpu-main.s"});
    status = run_compiler(command, folder.path(), log);
    if (status == 0) {
      write_text(folder.path() / "softgpu-padded.s", with_padded_shared(read_text(folder.path() / "softgpu-main.s")));
      command = {SOFTNVRTC_CXX, "softgpu-padded.s", "-o", "softgpu-image.so"};
    }
  } else {
    command.insert(command.end(), {kMainFile, "-o", "softgpu-image.so"});
  }
  if (status == 0) {
    command.insert(command.end(), link.begin(), link.end());
    status = run_compiler(command, folder.path(), log);
  }
  log = nvrtc_log(log);
  return status == 0 ? read_text(folder.path() / "softgpu-image.so") : "";
}

}  // namespace

uint64_t shared_padding_bytes() { return kPadding; }

CompileOutput compile_for_host(const CompileInput& in) {
  std::map<fs::path, std::string> files;
  std::string all_text = in.text;
  for (const auto& [name, text] : in.headers) {
    if (name.empty() || name[0] == '/' || name.find("..") != std::string::npos)
      return {{}, {}, "softnvrtc: header name " + name + " leaves the program's folder\n"};
    const bool is_ptx = fs::path(name).filename() == "ptx.cuh";
    files[name] = is_ptx ? std::string(kSoftPtxText) : with_dynamic_shared(text);
    if (!is_ptx) all_text += "\n" + text;
  }
  files["soft_image.h"] = kSoftImageText;
  files["soft_prelude.h"] = kPreludeText;
  files["soft_hooks.h"] = kHooksText;

  CompileOutput out;
  out.entries = find_entries(in.text);
  files[kMainFile] = "#include \"soft_image.h\"\n#include \"soft_prelude.h\"\n#line 1 \"" + in.name + "\"\n" +
                     with_dynamic_shared(in.text) + trampolines(out.entries, find_namespaces(without_comments(all_text)));

  const std::string key = image_key(compiler_flags(in), files);
  if (std::optional<std::string> image = find_image(key)) {
    out.image = std::move(*image);
    return out;
  }
  out.image = compile_files(in, files, out.log);
  if (!out.image.empty() && out.log.empty()) keep_image(key, out.image);   // a log must come back each time
  return out;
}

}  // namespace softgpu
