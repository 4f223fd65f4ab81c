#include "runtime/options_file.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <numeric>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/base/toml_text.h"

namespace sj {
namespace {

/// A key of the file: what it takes, and how it becomes an option. `set` returns false for a value that it doesn't take.
struct Key {
  std::string_view name;
  std::string expected;
  std::function<bool(const toml::node&, SessionOptions&)> set;
};

Key integer_key(std::string_view name, uint32_t SessionOptions::* option, int64_t low, int64_t high) {
  return {name, fmt::format("a whole number from {} to {}", low, high), [=](const toml::node& node, SessionOptions& options) {
            const toml::value<int64_t>* value = node.as_integer();
            if (value == nullptr || value->get() < low || value->get() > high) return false;
            options.*option = static_cast<uint32_t>(value->get());
            return true;
          }};
}

Key bool_key(std::string_view name, std::function<void(bool, SessionOptions&)> set) {
  return {name, "true or false", [set = std::move(set)](const toml::node& node, SessionOptions& options) {
            const toml::value<bool>* value = node.as_boolean();
            if (value == nullptr) return false;
            set(value->get(), options);
            return true;
          }};
}

Key path_key(std::string_view name, std::string SessionOptions::* option) {
  return {name, "a path as a string", [=](const toml::node& node, SessionOptions& options) {
            const toml::value<std::string>* value = node.as_string();
            if (value == nullptr || value->get().empty()) return false;
            options.*option = value->get();
            return true;
          }};
}

bool set_bundles(const toml::node& node, SessionOptions& options) {
  std::vector<std::string> paths;
  const auto take = [&](const toml::node& item) {
    const toml::value<std::string>* value = item.as_string();
    if (value == nullptr || value->get().empty()) return false;
    paths.push_back(value->get());
    return true;
  };
  if (const toml::array* list = node.as_array()) {
    for (const toml::node& item : *list)
      if (!take(item)) return false;
  } else if (!take(node)) {
    return false;
  }
  options.bundle_paths = std::move(paths);
  return true;
}

bool set_device(const toml::node& node, SessionOptions& options) {
  const toml::value<std::string>* value = node.as_string();
  if (value == nullptr || !is_device_name(value->get())) return false;
  options.device = value->get();
  return true;
}

bool set_kv_type(const toml::node& node, SessionOptions& options) {
  const toml::value<std::string>* value = node.as_string();
  if (value == nullptr || !is_kv_type_name(value->get())) return false;
  options.kv_type = value->get();
  return true;
}

const std::vector<Key>& known_keys() {
  static const std::vector<Key> keys = {
      integer_key("ctx", &SessionOptions::max_ctx_tokens, 0, 1 << 24),
      integer_key("threads", &SessionOptions::n_threads, 0, 4096),
      integer_key("prefill_tokens", &SessionOptions::prefill_tokens, 1, 1 << 20),
      {"device", "one of \"auto\", \"cpu\", \"cuda\", \"cuda:N\"", set_device},
      {"kv_type", "one of \"f16\", \"q8_0\"", set_kv_type},
      bool_key("f32", [](bool value, SessionOptions& o) { o.activations = value ? ActivationMode::kF32 : ActivationMode::kAuto; }),
      bool_key("sync_launches", [](bool value, SessionOptions& o) { o.sync_launches = value; }),
      bool_key("progress", [](bool value, SessionOptions& o) { o.show_progress = value; }),
      path_key("cache_dir", &SessionOptions::cache_dir),
      path_key("kernel_dir", &SessionOptions::kernel_dir),
      path_key("libcuda", &SessionOptions::libcuda_path),
      path_key("libnvrtc", &SessionOptions::libnvrtc_path),
      {"bundle", "a path as a string, or a list of them", set_bundles},
      path_key("trust", &SessionOptions::trust_path),
      path_key("tuning", &SessionOptions::tuning_path),
      bool_key("no_jit", [](bool value, SessionOptions& o) { o.may_compile = !value; }),
  };
  return keys;
}

/// Levenshtein's distance: insertions, deletions and replacements that make `b` of `a`.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::string_view nearest_key(std::string_view name) {
  const auto nearer = [&](const Key& a, const Key& b) { return edit_distance(name, a.name) < edit_distance(name, b.name); };
  return std::min_element(known_keys().begin(), known_keys().end(), nearer)->name;
}

std::string found_text(const toml::node& node) {
  if (const auto* value = node.as_string()) return fmt::format("the string \"{}\"", value->get());
  if (const auto* value = node.as_integer()) return fmt::to_string(value->get());
  if (const auto* value = node.as_floating_point()) return fmt::to_string(value->get());
  if (const auto* value = node.as_boolean()) return fmt::to_string(value->get());
  if (node.is_table()) return "a table";
  return node.is_array() ? "an array" : "a date or time";
}

void apply_key(const std::string& where, std::string_view name, const toml::node& node, SessionOptions& options) {
  const auto key = std::find_if(known_keys().begin(), known_keys().end(), [&](const Key& k) { return k.name == name; });
  if (key == known_keys().end())
    throw Error(ErrorKind::kUsage, fmt::format("{}: {}: no such key; the nearest is {}", where, name, nearest_key(name)));
  if (!key->set(node, options))
    throw Error(ErrorKind::kUsage, fmt::format("{}: {}: expected {}, found {}", where, name, key->expected, found_text(node)));
}

void take_variable(std::string& option, const std::string& variable) {
  if (!variable.empty()) option = variable;
}

}  // namespace

std::string default_config_path(const Environment& environment) {
  if (!environment.xdg_config_home.empty()) return environment.xdg_config_home + "/sparkjit/config.toml";
  return environment.home.empty() ? "" : environment.home + "/.config/sparkjit/config.toml";
}

void apply_config_text(std::string_view text, const std::string& path, SessionOptions& options) {
  const toml::table table = parse_toml(text, path);
  // The table is sorted by name; the first trouble of the file is the one to tell.
  std::vector<const toml::key*> keys;
  for (auto&& [key, node] : table) keys.push_back(&key);
  std::sort(keys.begin(), keys.end(), [](const toml::key* a, const toml::key* b) { return a->source().begin < b->source().begin; });
  for (const toml::key* key : keys)
    apply_key(fmt::format("{}:{}", path, key->source().begin.line), key->str(), *table.get(key->str()), options);
}

void apply_config(const std::string& path, const Environment& environment, SessionOptions& options) {
  const std::string file = path.empty() ? default_config_path(environment) : path;
  std::error_code ignored;   // a folder that can't be searched holds no default file
  const bool is_wanted = path.empty() ? !file.empty() && std::filesystem::exists(file, ignored) : path != "none";
  if (is_wanted) apply_config_text(read_file(file), file, options);
  take_variable(options.cache_dir, environment.cache_dir);
  take_variable(options.libcuda_path, environment.libcuda_path);
  take_variable(options.libnvrtc_path, environment.libnvrtc_path);
  take_variable(options.trust_path, environment.trust_path);
  take_variable(options.tuning_path, environment.tuning_path);
  take_variable(options.kv_type, environment.kv_type);
  if (std::vector<std::string> paths = split_paths(environment.bundle_paths); !paths.empty()) options.bundle_paths = std::move(paths);
}

}  // namespace sj
