// `sparkjit cache`: looks after the compiled kernels on disk.
#include <ctime>
#include <memory>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cache/cubin_store.h"
#include "jit/base/error.h"
#include "runtime/options.h"
#include "tools/cli.h"

namespace sj {
namespace {

struct CacheVerbOptions {
  SessionOptions session;
  std::string action;
  std::string format = "text";
  uint32_t max_mb = static_cast<uint32_t>(CubinStore::kDefaultMaxBytes >> 20);
};

std::string list_text(const std::vector<StoreEntryInfo>& entries) {
  std::string text;
  for (const StoreEntryInfo& entry : entries)
    text += fmt::format("{:%Y-%m-%d %H:%M}  {:>7} B  {:>6.0f} ms  {:>3} regs  {:>4} B spilled  {}  {}@{}\n",
                        fmt::localtime(static_cast<std::time_t>(entry.last_used_s)), entry.file_bytes, entry.compile_us / 1e3,
                        entry.resources.registers, entry.resources.spill_bytes, entry.key.substr(0, 12), entry.label, entry.target);
  return text;
}

std::string list_json(const std::vector<StoreEntryInfo>& entries) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const StoreEntryInfo& entry : entries)
    list.push_back({{"key", entry.key},
                    {"label", entry.label},
                    {"target", entry.target},
                    {"compiler", entry.compiler},
                    {"registers", entry.resources.registers},
                    {"spill_bytes", entry.resources.spill_bytes},
                    {"static_smem_bytes", entry.resources.static_smem_bytes},
                    {"compile_us", entry.compile_us},
                    {"file_bytes", entry.file_bytes},
                    {"last_used_s", entry.last_used_s}});
  return list.dump(2) + "\n";
}

int verify(CubinStore& store, bool as_json) {
  const VerifyReport report = store.verify();
  if (as_json) {
    write_stdout(nlohmann::ordered_json{{"good", report.n_good}, {"damaged", report.damaged}}.dump(2) + "\n");
  } else {
    for (const std::string& line : report.damaged) write_stdout(line + "\n");
    write_stdout(fmt::format("{} good, {} damaged and moved to quarantine\n", report.n_good, report.damaged.size()));
  }
  return report.damaged.empty() ? 0 : static_cast<int>(ErrorKind::kIo);
}

std::string stats_text(const CubinStore& store, bool as_json) {
  const StoreStats stats = store.stats();
  if (as_json)
    return nlohmann::ordered_json{{"dir", store.dir()},
                                  {"is_writable", store.can_write()},
                                  {"entries", stats.n_entries},
                                  {"bytes", stats.total_bytes},
                                  {"quarantined", stats.n_quarantined},
                                  {"quarantined_bytes", stats.quarantined_bytes}}
               .dump(2) + "\n";
  return fmt::format("folder {}{}\nkernels {}\nbytes {}\nquarantined {} ({} bytes)\n", store.dir(),
                     store.can_write() ? "" : fmt::format(" ({})", store.problem()), stats.n_entries, stats.total_bytes,
                     stats.n_quarantined, stats.quarantined_bytes);
}

int run_cache(const CacheVerbOptions& options) {
  const std::string action =
      parse_choice("cache", options.action, std::vector<std::string_view>{"ls", "stats", "verify", "gc", "clear"});
  const SessionOptions resolved = resolve_options(options.session, read_environment());
  CubinStore store(resolved.cache_dir);
  if (!store.has_disk()) throw Error(ErrorKind::kIo, fmt::format("cache: no usable folder: {}", store.problem()));
  const bool as_json = options.format == "json";
  const auto removed = [&](uint64_t n_files) {
    write_stdout(as_json ? nlohmann::ordered_json{{"removed", n_files}}.dump(2) + "\n" : fmt::format("{} files removed\n", n_files));
    return 0;
  };
  if (action == "verify") return verify(store, as_json);
  if (action == "gc") return removed(store.collect_garbage(uint64_t{options.max_mb} << 20));
  if (action == "clear") return removed(store.clear());
  if (action == "stats") write_stdout(stats_text(store, as_json));
  else write_stdout(as_json ? list_json(store.entries()) : list_text(store.entries()));
  return 0;
}

}  // namespace

void add_cache_verb(VerbTable& verbs) {
  const auto options = std::make_shared<CacheVerbOptions>();
  Flags flags = verbs.add("cache", "list, check or shrink the compiled kernels on disk", [options] { return run_cache(*options); });
  flags.required_positional("action", options->action, "ls, stats, verify, gc (shrink to --max-mb) or clear");
  flags.config(options->session);
  flags.text("--cache-dir", options->session.cache_dir, "compiled kernels are kept here", "DIR");
  flags.integer("--max-mb", options->max_mb, 0, 1 << 20, "what gc leaves (default 512)");
  flags.choice("-o,--output", options->format, {"text", "json"}, "how to print (default text)");
}

}  // namespace sj
