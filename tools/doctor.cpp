// `sparkjit doctor`: what this machine offers, what works with it, and what to install for the rest.
#include <memory>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cache/cubin_store.h"
#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/compiler.h"
#include "jit/device_info.h"
#include "jit/driver.h"
#include "jit/nvrtc.h"
#include "runtime/kv_cache.h"
#include "runtime/options.h"
#include "tools/cli.h"

namespace sj {
namespace {

enum class Health { kOk, kWarning, kMissing };

struct Finding {
  std::string part;     // "driver", "device 0", "compiler", "cache", "cpu"
  Health health = Health::kOk;
  std::string text;
  std::string advice;   // what to do about it; empty when nothing is to be done
};

struct Diagnosis {
  std::vector<Finding> findings;
  std::vector<std::string> targets;   // of the devices that were found
  bool has_gpu = false, has_compiler = false;
};

std::string_view health_name(Health health) {
  switch (health) {
    case Health::kOk: return "ok";
    case Health::kWarning: return "warning";
    case Health::kMissing: return "missing";
  }
  return "?";
}

std::string device_text(const DeviceInfo& info) {
  const auto gib = [](uint64_t n_bytes) { return static_cast<double>(n_bytes) / (1u << 30); };
  return fmt::format("{}: compute {}.{} ({}), {} SMs, {:.1f} GiB {}, {} KB shared memory a block, {:.0f} MiB L2{}", info.name,
                     info.compute_major, info.compute_minor, info.target(), info.n_sms, gib(info.memory_bytes),
                     info.is_integrated ? "unified with the CPU's" : "of its own", info.smem_per_block_bytes / 1024,
                     static_cast<double>(info.l2_bytes) / (1 << 20),
                     info.bandwidth_gb_per_s > 0 ? fmt::format(", {:.0f} GB/s", info.bandwidth_gb_per_s) : "");
}

void look_at_devices(const Driver& driver, Diagnosis& diagnosis) {
  for (int ordinal = 0; ordinal < device_count(driver); ++ordinal) {
    const std::string part = fmt::format("device {}", ordinal);
    try {
      const DeviceInfo info = device_info(driver, ordinal);
      diagnosis.findings.push_back({part, Health::kOk, device_text(info), ""});
      diagnosis.targets.push_back(info.target());
      diagnosis.has_gpu = true;
    } catch (const Error& error) {   // one broken or unsupported card must not hide the others
      diagnosis.findings.push_back({part, Health::kMissing, error.what(), "use another device with --device cuda:N, or --device cpu"});
    }
  }
}

void look_at_driver(const SessionOptions& options, Diagnosis& diagnosis) {
  std::string why;
  const Driver* driver = find_driver(options.libcuda_path, &why);
  if (driver == nullptr) {
    diagnosis.findings.push_back({"driver", Health::kMissing, why,
                                  "for an NVIDIA card: install its driver 570 or newer (CUDA 12.8); without one, --device cpu works"});
    return;
  }
  diagnosis.findings.push_back({"driver", Health::kOk, fmt::format("{}, CUDA {}", driver->path, cuda_version_text(driver->version)), ""});
  look_at_devices(*driver, diagnosis);
}

// A library that opens may still lack its builtins; only a compile shows that.
void probe_compiler(const Nvrtc& nvrtc, Diagnosis& diagnosis) {
  const SourceSet sources(std::map<std::string, std::string>{{"probe.cu", "extern \"C\" __global__ void sj_probe() {}\n"}});
  const KernelSpec spec{.source = "probe.cu", .entry = "sj_probe", .launch = {.grid = {1}, .block = {32}}};
  std::vector<std::string> targets = diagnosis.targets;
  if (targets.empty()) targets = {"sm_120f"};
  for (const std::string& target : targets) {
    try {
      const Cubin cubin = compile(nvrtc, {.spec = spec, .sources = sources, .target = target});
      diagnosis.findings.push_back({"compiler", Health::kOk, fmt::format("{} {} compiles for {} (probe: {:.0f} ms)", nvrtc.path,
                                                                        nvrtc.version_text(), target, cubin.compile_us / 1e3), ""});
      diagnosis.has_compiler = true;
    } catch (const Error& error) {
      diagnosis.findings.push_back({"compiler", Health::kMissing, error.what(), "install NVRTC 12.8 or newer with its builtins"});
    }
  }
}

void look_at_compiler(const SessionOptions& options, Diagnosis& diagnosis) {
  std::string why;
  if (const Nvrtc* nvrtc = find_nvrtc(options.libnvrtc_path, &why)) return probe_compiler(*nvrtc, diagnosis);
  diagnosis.findings.push_back({"compiler", Health::kMissing, why,
                                "install libnvrtc 12.8 or newer (CUDA toolkit, or pip install nvidia-cuda-nvrtc); kernels that "
                                "are already cached work without it"});
}

void look_at_cache(const SessionOptions& options, Diagnosis& diagnosis) {
  if (options.cache_dir.empty() || options.cache_dir == "none") {
    diagnosis.findings.push_back({"cache", Health::kWarning, "no folder: kernels are compiled anew by every process",
                                  "set --cache-dir, SPARKJIT_CACHE_DIR or HOME"});
    return;
  }
  CubinStore store(options.cache_dir);
  if (!store.can_write()) {
    diagnosis.findings.push_back({"cache", Health::kWarning, fmt::format("{}: {}", options.cache_dir, store.problem()),
                                  "make the folder writable for you, or choose another with --cache-dir"});
    return;
  }
  const VerifyReport report = store.verify();
  const StoreStats stats = store.stats();
  diagnosis.findings.push_back({"cache", report.damaged.empty() ? Health::kOk : Health::kWarning,
                                fmt::format("{}: {} kernels, {:.1f} MB, {} damaged (set aside)", store.dir(), report.n_good,
                                            static_cast<double>(stats.total_bytes) / 1e6, report.damaged.size()), ""});
}

std::string verdict(const Diagnosis& diagnosis) {
  if (diagnosis.has_gpu && diagnosis.has_compiler) return "models run on the GPU (--device cuda) and on the CPU (--device cpu)";
  if (diagnosis.has_gpu) return "models whose kernels are cached run on the GPU; all run on the CPU (--device cpu)";
  if (diagnosis.has_compiler) return "models run on the CPU (--device cpu); kernels for other machines' cards can be compiled here";
  return "models run on the CPU (--device cpu)";
}

std::string as_text(const Diagnosis& diagnosis) {
  std::string text;
  for (const Finding& finding : diagnosis.findings) {
    text += fmt::format("{:<10} {:<8} {}\n", finding.part, health_name(finding.health), finding.text);
    if (!finding.advice.empty()) text += fmt::format("{:<10} {:<8} -> {}\n", "", "", finding.advice);
  }
  return text + fmt::format("{:<10} {:<8} {}\n", "works", "", verdict(diagnosis));
}

std::string as_json(const Diagnosis& diagnosis) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Finding& finding : diagnosis.findings)
    list.push_back({{"part", finding.part}, {"health", health_name(finding.health)}, {"text", finding.text}, {"advice", finding.advice}});
  return nlohmann::ordered_json{{"findings", list}, {"has_gpu", diagnosis.has_gpu}, {"has_compiler", diagnosis.has_compiler},
                                {"works", verdict(diagnosis)}}
             .dump(2) + "\n";
}

struct DoctorOptions {
  SessionOptions session;
  std::string format = "text";
  std::string profile_path;
};

/// The figures of the card in this machine as a profile, for prewarming elsewhere.
int write_profile(const DoctorOptions& options, const SessionOptions& resolved) {
  const Driver& driver = require_driver(resolved.libcuda_path);
  const int ordinal = cuda_ordinal(options.session.device == "auto" ? "cuda" : options.session.device).value_or(-1);
  if (ordinal < 0) throw Error(ErrorKind::kUsage, fmt::format("doctor --write-profile: expected --device cuda or cuda:N, found {}", options.session.device));
  const DeviceInfo info = device_info(driver, ordinal);
  std::string text = fmt::format("# {}: written by `sparkjit doctor --write-profile`; every figure is the driver's (CUDA {}), the bandwidth from\n"
                                 "# clock and bus width unless a profile of this name is built in.\n", info.name, cuda_version_text(driver.version));
  if (info.bandwidth_gb_per_s <= 0) text += "# The driver tells no bandwidth: put the maker's figure, or this file is refused.\n";
  text += device_profile_text(info);
  if (options.profile_path == "-") write_stdout(text);
  else atomic_write(options.profile_path, text, 0644);
  return 0;
}

int run_doctor(const DoctorOptions& options) {
  const SessionOptions resolved = resolve_options(options.session, read_environment());
  if (!options.profile_path.empty()) return write_profile(options, resolved);
  Diagnosis diagnosis;
  look_at_driver(resolved, diagnosis);
  look_at_compiler(resolved, diagnosis);
  look_at_cache(resolved, diagnosis);
  diagnosis.findings.push_back({"kv cache", Health::kOk, fmt::format("{} (--kv-type)", kv_type_name(kv_type_of(resolved))), ""});
  diagnosis.findings.push_back({"cpu", Health::kOk, fmt::format("{} threads", std::thread::hardware_concurrency()), ""});
  write_stdout(options.format == "json" ? as_json(diagnosis) : as_text(diagnosis));
  return 0;
}

}  // namespace

void add_doctor_verb(VerbTable& verbs) {
  const auto options = std::make_shared<DoctorOptions>();
  Flags flags = verbs.add("doctor", "what this machine offers and what to install", [options] { return run_doctor(*options); });
  flags.config(options->session);
  flags.text("--cache-dir", options->session.cache_dir, "compiled kernels are kept here", "DIR");
  flags.text("--libcuda", options->session.libcuda_path, "driver library to open instead of libcuda.so.1", "FILE");
  flags.text("--libnvrtc", options->session.libnvrtc_path, "compiler library to open instead of libnvrtc.so.13 or .12", "FILE");
  flags.text("--write-profile", options->profile_path, "write the card's figures for `prewarm --device FILE`, and nothing else; '-': stdout", "FILE.toml");
  flags.device("--device", options->session.device, "the card of --write-profile (default the first)");
  flags.choice("-o,--output", options->format, {"text", "json"}, "how to print (default text)");
}

}  // namespace sj
