#include "cache/cache_key.h"

#include "jit/base/hash.h"
#include "jit/compiler.h"

namespace sj {

std::string cache_key(const CacheKeyInput& in) {
  FieldHasher hasher;
  hasher.add("sparkjit cubin 1");  // scheme of this function; a change of it makes every old entry miss
  hasher.add(in.entry_text.text);
  hasher.add(static_cast<uint64_t>(in.headers.size()));
  for (const NamedText& header : in.headers) {
    hasher.add(header.name);
    hasher.add(header.text);
  }
  hasher.add(in.baked);
  hasher.add(static_cast<uint64_t>(in.options.size()));
  for (const std::string& option : in.options) hasher.add(option);
  hasher.add(in.target);
  hasher.add(in.entry);
  hasher.add(static_cast<uint64_t>(in.compiler.version));
  hasher.add(in.compiler.build_id);
  return to_hex(hasher.digest());
}

std::string cache_key(const KernelSpec& spec, const SourceSet& sources, const std::string& target, const CompilerId& compiler) {
  const SourceClosure closure = sources.require_closure(spec.source);
  const std::string baked = baked_header(spec);
  const std::vector<std::string> options = codegen_options(target);
  return cache_key({.entry_text = closure.entry,
                    .headers = closure.headers,
                    .baked = baked,
                    .options = options,
                    .target = target,
                    .entry = spec.entry,
                    .compiler = compiler});
}

}  // namespace sj
