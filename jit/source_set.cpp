#include "jit/source_set.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/embedded_sources.h"

namespace sj {
namespace {

namespace fs = std::filesystem;

/// Names in #include "..." lines. Conditional code is not evaluated: a name too many only makes the key stricter.
std::vector<std::string_view> quoted_includes(std::string_view text) {
  const auto skip_blanks = [](std::string_view s) {
    const size_t n = s.find_first_not_of(" \t");
    return n == std::string_view::npos ? std::string_view{} : s.substr(n);
  };
  std::vector<std::string_view> names;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = skip_blanks(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    if (!line.starts_with('#')) continue;
    line = skip_blanks(line.substr(1));
    if (!line.starts_with("include")) continue;
    line = skip_blanks(line.substr(7));
    if (!line.starts_with('"')) continue;
    const size_t close = line.find('"', 1);
    if (close != std::string_view::npos) names.push_back(line.substr(1, close - 1));
  }
  return names;
}

void add_files(const fs::path& root, const std::string& folder, std::string_view extension,
               std::map<std::string, std::string>& files) {
  const fs::path dir = folder.empty() ? root : root / folder;
  std::error_code ec;
  for (const fs::directory_entry& item : fs::directory_iterator(dir, ec)) {
    if (!item.is_regular_file() || item.path().extension() != extension) continue;
    const std::string name = item.path().filename().string();
    files[folder.empty() ? name : folder + "/" + name] = read_file(item.path().string());
  }
}

}  // namespace

SourceSet::SourceSet(Files files) : files_(std::move(files)) {}

const SourceSet& SourceSet::embedded() {
  static const SourceSet instance = [] {
    std::map<std::string, std::string> files;
    for (const EmbeddedSource& source : embedded_sources()) files.emplace(source.path, source.text);
    return SourceSet(std::move(files));
  }();
  return instance;
}

SourceSet SourceSet::from_folder(const std::string& dir) {
  std::error_code ec;
  if (!fs::is_directory(dir, ec)) throw Error(ErrorKind::kIo, fmt::format("kernel folder {} is not a directory", dir));
  std::map<std::string, std::string> files;
  add_files(dir, "", ".cu", files);
  add_files(dir, "device", ".cuh", files);
  add_files(dir, "args", ".h", files);
  if (files.empty())
    throw Error(ErrorKind::kIo, fmt::format("kernel folder {} holds no kernel text (*.cu, device/*.cuh, args/*.h)", dir));
  SourceSet set(std::move(files));
  set.origin_ = dir;
  return set;
}

const std::string* SourceSet::find_text(const std::string& path) const {
  const auto it = files_.find(path);
  return it == files_.end() ? nullptr : &it->second;
}

const std::string* SourceSet::resolve(std::string_view include_name) const {
  constexpr std::string_view kRoot = "kernel_src/";
  if (include_name.starts_with(kRoot)) include_name.remove_prefix(kRoot.size());
  for (const std::string_view folder : {"", "device/", "args/"})
    if (const std::string* text = find_text(fmt::format("{}{}", folder, include_name))) return text;
  return nullptr;
}

SourceClosure SourceSet::require_closure(const std::string& entry_path) const {
  const std::string* entry_text = find_text(entry_path);
  if (entry_text == nullptr)
    throw Error(ErrorKind::kCompile, fmt::format("kernel source {} is not in the {} kernel texts; there are: {}", entry_path,
                                                 origin_, fmt::join(entry_paths(), ", ")));
  std::map<std::string, std::string_view> reached;
  std::vector<std::string_view> to_scan = {*entry_text};
  while (!to_scan.empty()) {
    const std::string_view text = to_scan.back();
    to_scan.pop_back();
    for (const std::string_view name : quoted_includes(text)) {
      const std::string* found = resolve(name);
      if (found != nullptr && reached.emplace(name, *found).second) to_scan.push_back(*found);
    }
  }
  SourceClosure closure = {.entry = {entry_path, *entry_text}, .headers = {}};
  for (const auto& [name, text] : reached) closure.headers.push_back({name, text});
  return closure;
}

std::vector<std::string> SourceSet::entry_paths() const {
  std::vector<std::string> paths;
  for (const auto& [path, text] : files_)
    if (path.ends_with(".cu")) paths.push_back(path);
  return paths;
}

}  // namespace sj
