// The options file: TOML whose keys are spelled like the flags. It gives way to variables and flags.
// In: a path. Out: SessionOptions with the file's values. Called by the tools.
#pragma once

#include <string>
#include <string_view>

#include "runtime/options.h"

namespace sj {

/// $XDG_CONFIG_HOME/sparkjit/config.toml, else $HOME/.config/sparkjit/config.toml; empty when neither is set.
std::string default_config_path(const Environment& environment);

/// Sets what the file says, then what variables say, so that flags parsed afterwards win. `path` empty: the default path,
/// which may be missing; "none": no file. Throws kIo for a file that can't be read, kUsage as apply_config_text.
void apply_config(const std::string& path, const Environment& environment, SessionOptions& options);

/// Sets what `text` says: ctx, device, threads, prefill_tokens, f32, sync_launches, progress, cache_dir, kernel_dir, libcuda,
/// libnvrtc, bundle, trust, no_jit. Throws kUsage "path:line: key: ..." for broken TOML, an unknown key (naming the nearest), a value of another
/// type or out of range (naming what is expected and what was found).
void apply_config_text(std::string_view text, const std::string& path, SessionOptions& options);

}  // namespace sj
