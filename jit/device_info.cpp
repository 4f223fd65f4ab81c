#include "jit/device_info.h"

#define TOML_EXCEPTIONS 1
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "jit/base/file.h"
#include "jit/embedded_sources.h"

namespace sj {
namespace {

constexpr std::string_view kProfileFolder = "profiles/";
constexpr std::string_view kProfileSuffix = ".toml";

std::string_view profile_name(std::string_view path) {
  path.remove_prefix(kProfileFolder.size());
  path.remove_suffix(kProfileSuffix.size());
  return path;
}

bool is_profile(const EmbeddedSource& source) {
  return source.path.starts_with(kProfileFolder) && source.path.ends_with(kProfileSuffix);
}

[[noreturn]] void refuse(const std::string& origin, const std::string& why) {
  throw Error(ErrorKind::kUnsupported, fmt::format("device profile {}: {}", origin, why));
}

/// Reads keys of one table and remembers which it was asked for, so that a misspelt key is an error.
class ProfileReader {
 public:
  ProfileReader(const toml::table& table, const std::string& origin) : table_(table), origin_(origin) {}

  uint64_t integer(const char* key, uint64_t lowest, uint64_t highest) {
    const toml::node& node = require(key);
    const std::optional<int64_t> value = node.value_exact<int64_t>();
    if (!value) refuse(origin_, fmt::format("{} is not an integer", key));
    if (*value < 0 || static_cast<uint64_t>(*value) < lowest || static_cast<uint64_t>(*value) > highest)
      refuse(origin_, fmt::format("{} is {}, expected {} to {}", key, *value, lowest, highest));
    return static_cast<uint64_t>(*value);
  }
  double number(const char* key, double lowest, double highest) {
    const std::optional<double> value = require(key).value<double>();
    if (!value || !(*value >= lowest && *value <= highest))
      refuse(origin_, fmt::format("{} is {}, expected {} to {}", key, value ? fmt::format("{}", *value) : "not a number", lowest, highest));
    return *value;
  }
  std::string text(const char* key) {
    const std::optional<std::string> value = require(key).value_exact<std::string>();
    if (!value || value->empty()) refuse(origin_, fmt::format("{} is not a text", key));
    return *value;
  }
  bool boolean(const char* key) {
    const std::optional<bool> value = require(key).value_exact<bool>();
    if (!value) refuse(origin_, fmt::format("{} is not true or false", key));
    return *value;
  }
  void require_no_other_key() const {
    for (const auto& [key, node] : table_)
      if (std::find(asked_.begin(), asked_.end(), key.str()) == asked_.end())
        refuse(origin_, fmt::format("unknown key {}; known are {}", key.str(), fmt::join(asked_, ", ")));
  }

 private:
  const toml::node& require(const char* key) {
    asked_.emplace_back(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) refuse(origin_, fmt::format("{} is missing", key));
    return *node;
  }
  const toml::table& table_;
  const std::string& origin_;
  std::vector<std::string> asked_;
};

/// Peak bandwidth of a card whose driver does not tell, from the profile of the same name.
double bandwidth_by_name(const std::string& device_name) {
  for (const std::string& name : device_profile_names()) {
    const DeviceInfo profile = require_device_profile(name);
    if (profile.name == device_name) return profile.bandwidth_gb_per_s;
  }
  return 0;
}

}  // namespace

std::string DeviceInfo::target() const { return fmt::format("sm_{}{}{}", compute_major, compute_minor, compute_major >= 10 ? "f" : ""); }

std::vector<std::string> compatible_targets(std::string_view target) {
  // CUDA C++ programming guide: a cubin runs on later minor versions of its major version ("binary compatibility", not between
  // desktop and Tegra, so 8.7 and 8.8 are left out); code of a family target runs on the family's later members ("family-specific
  // features": 10.0 and 10.3, 12.0 and 12.1).
  static const std::map<std::string_view, std::vector<std::string>> kCompatible = {
      {"sm_86", {"sm_80"}}, {"sm_89", {"sm_86", "sm_80"}}, {"sm_103f", {"sm_100f"}}, {"sm_121f", {"sm_120f"}}};
  const auto it = kCompatible.find(target);
  return it == kCompatible.end() ? std::vector<std::string>() : it->second;
}

DeviceInfo device_info(const Driver& drv, int ordinal) {
  const int n = device_count(drv);
  if (ordinal < 0 || ordinal >= n)
    throw Error(ErrorKind::kCuda, fmt::format("no CUDA device {}: {} present", ordinal, n));
  const std::string context = fmt::format("device {}", ordinal);
  CUdevice device = 0;
  drv.check(drv.cuDeviceGet(&device, ordinal), "cuDeviceGet", context);
  char name[256] = {};
  drv.check(drv.cuDeviceGetName(name, sizeof name - 1, device), "cuDeviceGetName", context);
  const auto attribute = [&](CUdevice_attribute which) {
    int value = 0;
    drv.check(drv.cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute", context);
    return static_cast<uint32_t>(std::max(0, value));
  };
  DeviceInfo info;
  info.name = name;
  info.compute_major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info.compute_minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (info.compute_major < 8)
    throw Error(ErrorKind::kUnsupported, fmt::format("device {} ({}) has compute capability {}.{}; 8.0 or newer is needed", ordinal,
                                                     info.name, info.compute_major, info.compute_minor));
  info.n_sms = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.smem_per_block_bytes = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  info.smem_per_sm_bytes = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
  info.regs_per_sm = attribute(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
  info.max_threads_per_sm = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  info.l2_bytes = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  info.is_integrated = attribute(CU_DEVICE_ATTRIBUTE_INTEGRATED) != 0;
  size_t memory_bytes = 0;
  drv.check(drv.cuDeviceTotalMem(&memory_bytes, device), "cuDeviceTotalMem", context);
  info.memory_bytes = memory_bytes;
  // Two transfers a clock. The maker's figure wins where a profile has it: some drivers report a clock of 0 or a boost clock.
  const double clock_khz = attribute(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
  const double bus_bits = attribute(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
  const double from_profile = bandwidth_by_name(info.name);
  info.bandwidth_gb_per_s = from_profile > 0 ? from_profile : 2.0 * clock_khz * 1e3 * bus_bits / 8 * 1e-9;
  return info;
}

std::vector<std::string> device_profile_names() {
  std::vector<std::string> names;
  for (const EmbeddedSource& source : embedded_sources())
    if (is_profile(source)) names.emplace_back(profile_name(source.path));
  std::sort(names.begin(), names.end());
  return names;
}

DeviceInfo require_device_profile(const std::string& name) {
  if (name.ends_with(kProfileSuffix)) return parse_device_profile(read_file(name), name);
  for (const EmbeddedSource& source : embedded_sources())
    if (is_profile(source) && profile_name(source.path) == name) return parse_device_profile(source.text, name);
  throw Error(ErrorKind::kUsage, fmt::format("unknown device {}; known are {} (or a path that ends in .toml)", name,
                                             fmt::join(device_profile_names(), ", ")));
}

DeviceInfo parse_device_profile(std::string_view text, const std::string& origin) {
  toml::table table;
  try {
    table = toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    refuse(origin, fmt::format("line {}: {}", error.source().begin.line, error.description()));
  }
  ProfileReader reader(table, origin);
  constexpr uint64_t kKiB = 1024, kMiB = kKiB * 1024, kGiB = kMiB * 1024;
  DeviceInfo info;
  info.name = reader.text("name");
  info.compute_major = static_cast<uint32_t>(reader.integer("compute_major", 8, 99));
  info.compute_minor = static_cast<uint32_t>(reader.integer("compute_minor", 0, 9));
  info.n_sms = static_cast<uint32_t>(reader.integer("n_sms", 1, 1024));
  info.smem_per_block_bytes = static_cast<uint32_t>(reader.integer("smem_per_block_bytes", 48 * kKiB, kMiB));
  info.smem_per_sm_bytes = static_cast<uint32_t>(reader.integer("smem_per_sm_bytes", info.smem_per_block_bytes, kMiB));
  info.regs_per_sm = static_cast<uint32_t>(reader.integer("regs_per_sm", 32768, kMiB));
  info.max_threads_per_sm = static_cast<uint32_t>(reader.integer("max_threads_per_sm", 1024, 4096));
  info.l2_bytes = reader.integer("l2_bytes", kMiB, 4 * kGiB);
  info.memory_bytes = reader.integer("memory_bytes", kGiB, 4096 * kGiB);
  info.bandwidth_gb_per_s = reader.number("bandwidth_gb_per_s", 10, 100000);
  info.is_integrated = reader.boolean("is_integrated");
  reader.require_no_other_key();
  return info;
}

std::string device_profile_text(const DeviceInfo& info) {
  std::ostringstream quoted_name;
  quoted_name << toml::value<std::string>(info.name);
  return fmt::format("name = {}\ncompute_major = {}\ncompute_minor = {}\nn_sms = {}\nsmem_per_block_bytes = {}\n"
                     "smem_per_sm_bytes = {}\nregs_per_sm = {}\nmax_threads_per_sm = {}\nl2_bytes = {}\nmemory_bytes = {}\n"
                     "bandwidth_gb_per_s = {}\nis_integrated = {}\n",
                     quoted_name.str(), info.compute_major, info.compute_minor, info.n_sms, info.smem_per_block_bytes,
                     info.smem_per_sm_bytes, info.regs_per_sm, info.max_threads_per_sm, info.l2_bytes, info.memory_bytes,
                     info.bandwidth_gb_per_s, info.is_integrated);
}

}  // namespace sj
