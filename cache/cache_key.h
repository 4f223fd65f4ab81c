// The name of a cubin: a hash over everything that can change its bytes, and nothing else: no path, no time, no thread count.
// Called by kernel_cache, prewarm and `cache verify`.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "jit/kernel_spec.h"
#include "jit/nvrtc.h"
#include "jit/source_set.h"

namespace sj {

/// Which compiler makes, or made, a cubin.
struct CompilerId {
  int version = 0;       ///< 1000 * major + 10 * minor
  std::string build_id;  ///< Nvrtc::build_id
  bool operator==(const CompilerId&) const = default;
};

/// A new field makes old entries miss, never alias.
struct CacheKeyInput {
  NamedText entry_text;                   ///< the .cu file; its name is not hashed
  std::span<const NamedText> headers;     ///< what it includes, sorted by name
  std::string_view baked;                 ///< text of sj_baked.h
  std::span<const std::string> options;   ///< code-generation options in call order, --gpu-architecture included
  std::string_view target;                ///< "sm_120f"
  std::string_view entry;                 ///< extern "C" name
  CompilerId compiler;
};

/// 32 hex digits. Fields are length-prefixed: ("ab", "c") differs from ("a", "bc").
std::string cache_key(const CacheKeyInput& in);
/// The key under which `spec` is compiled for `target`. Throws kCompile when the source does not exist.
std::string cache_key(const KernelSpec& spec, const SourceSet& sources, const std::string& target, const CompilerId& compiler);

}  // namespace sj
