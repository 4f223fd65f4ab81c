#include "softgpu/soft_config.h"

#include "softgpu/soft_checks.h"

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <thread>

namespace softgpu {
namespace {

std::string text_of(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void read_profile(const std::string& path, Config& c) {
  const toml::table table = toml::parse_file(path);
  const auto number = [&](const char* key, auto& value) {
    if (const auto found = table[key].value<int64_t>()) value = static_cast<std::remove_reference_t<decltype(value)>>(*found);
    else c.problem = "profile " + path + ": no integer " + key;
  };
  c.name = table["name"].value_or(std::string("software GPU"));
  number("compute_major", c.compute_major);
  number("compute_minor", c.compute_minor);
  number("n_sms", c.n_sms);
  number("smem_per_block_bytes", c.smem_per_block_bytes);
  number("smem_per_sm_bytes", c.smem_per_sm_bytes);
  number("regs_per_sm", c.regs_per_sm);
  number("max_threads_per_sm", c.max_threads_per_sm);
  number("l2_bytes", c.l2_bytes);
  number("memory_bytes", c.memory_bytes);
  c.bandwidth_gb_per_s = table["bandwidth_gb_per_s"].value_or(0.0);
  c.is_integrated = table["is_integrated"].value_or(false);
}

void read_faults(const std::string& text, Config& c) {
  std::stringstream list(text);
  for (std::string item; std::getline(list, item, ',');) {
    const size_t a = item.find(':'), b = item.rfind(':');
    if (a == std::string::npos || a == b) {
      c.problem = "SOFTCUDA_FAULT: \"" + item + "\" is not call:n:code";
      return;
    }
    Fault fault;
    fault.call = item.substr(0, a);
    std::string nth = item.substr(a + 1, b - a - 1);
    if (!nth.empty() && nth.back() == '+') {
      fault.is_for_ever = true;
      nth.pop_back();
    }
    fault.nth = std::strtoull(nth.c_str(), nullptr, 10);
    fault.code = static_cast<int>(std::strtol(item.c_str() + b + 1, nullptr, 10));
    c.faults.push_back(fault);
  }
}

Config read_config() {
  Config c;
  try {
    if (const std::string path = text_of("SOFTCUDA_PROFILE"); !path.empty()) read_profile(path, c);
  } catch (const std::exception& e) {
    c.problem = "SOFTCUDA_PROFILE: " + std::string(e.what());
  }
  c.n_threads = std::max(1u, std::thread::hardware_concurrency());
  if (const std::string n = text_of("SOFTCUDA_THREADS"); !n.empty())
    c.n_threads = static_cast<uint32_t>(std::clamp(std::atoi(n.c_str()), 1, 64));
  if (kIsChecked) c.n_threads = 1;
  if (const std::string n = text_of("SOFTCUDA_MEMORY"); !n.empty()) c.memory_bytes = std::strtoull(n.c_str(), nullptr, 10);
  if (const std::string n = text_of("SOFTCUDA_DRIVER"); !n.empty()) c.driver_version = std::atoi(n.c_str());
  if (const std::string order = text_of("SOFTCUDA_ORDER"); order == "reverse") c.is_reverse = true;
  else if (!order.empty() && order != "forward") c.seed = std::strtoull(order.c_str(), nullptr, 10);
  c.allows_block_race = text_of("SOFTCUDA_ALLOW").find("block-race") != std::string::npos;
  c.allows_unwritten_shared = text_of("SOFTCUDA_ALLOW").find("unwritten-shared") != std::string::npos;
  c.allows_exited_barrier = text_of("SOFTCUDA_ALLOW").find("exited-barrier") != std::string::npos;
  read_faults(text_of("SOFTCUDA_FAULT"), c);
  c.calls_path = text_of("SOFTCUDA_CALLS");
  return c;
}

}  // namespace

const Config& config() {
  static const Config c = read_config();
  return c;
}

}  // namespace softgpu
