// Kernel texts: those built into the binary, or a folder's for kernel hackers. In: names. Out: an entry file with every
// file that it includes, directly or not. Called by compiler and cache_key.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sj {

struct NamedText {
  std::string name;       ///< as written in #include "...": "reduce.cuh", "step_state.h", "args/glu.h"
  std::string_view text;  ///< owned by the SourceSet
};

struct SourceClosure {
  NamedText entry;
  std::vector<NamedText> headers;  ///< sorted by name; sj_baked.h, which is generated, is not among them
};

class SourceSet {
 public:
  /// The texts of kernel_src/ as they were when the binary was built.
  static const SourceSet& embedded();
  /// The texts under `dir`, which is laid out as kernel_src/ is (*.cu, device/*.cuh, args/*.h). Throws kIo.
  static SourceSet from_folder(const std::string& dir);
  /// Names relative to kernel_src/ and their texts (tests).
  using Files = std::map<std::string, std::string>;
  explicit SourceSet(Files files);

  /// The text of `path` (relative to kernel_src/); null when there is none.
  const std::string* find_text(const std::string& path) const;
  /// `entry_path` ("rmsnorm.cu") and what it reaches by #include "...". A quoted name is looked up as a path in kernel_src/
  /// (with or without that prefix), then in device/, then in args/; a name found nowhere is left to NVRTC to complain about.
  /// Throws kCompile when `entry_path` does not exist, naming those that do.
  SourceClosure require_closure(const std::string& entry_path) const;
  const Files& files() const { return files_; }
  /// Sorted paths of all texts that end in ".cu".
  std::vector<std::string> entry_paths() const;
  /// "embedded" or the folder.
  const std::string& origin() const { return origin_; }

 private:
  const std::string* resolve(std::string_view include_name) const;
  Files files_;
  std::string origin_ = "embedded";
};

}  // namespace sj
