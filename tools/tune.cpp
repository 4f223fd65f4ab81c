// `sparkjit tune`: measures which tile sizes are fastest on the card that is here, and remembers them for later loads.
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cache/tuning_db.h"
#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/base/log.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/options.h"
#include "runtime/session_tuning.h"
#include "runtime/tuner.h"
#include "tools/cli.h"
#include "tools/inspect_device.h"
#include "tools/tune_report.h"

namespace sj {
namespace {

struct TuneFlags {
  SessionOptions session;
  std::string shape;      // instead of a model file
  SynthOptions synth;
  std::string device = "cuda";
  std::string kernels, budget = "5m", objective = "step", report_path, db_path;
  std::vector<uint32_t> depths;
  uint32_t n_repeats = 25;
  bool again = false, dry_run = false;
};

OpenedModel open_tuned_model(const TuneFlags& flags, bool wants_weights) {
  const auto start = Clock::now();
  if (flags.shape.empty()) {
    if (wants_weights) return open_model(flags.session.model_path);
    GgufFile file = open_gguf(flags.session.model_path);
    ModelDesc model = describe_model(file);
    return {start, std::move(file), std::move(model), std::nullopt, {}};
  }
  GgufFile file = synthetic_gguf(load_shape(flags.shape), flags.synth);
  ModelDesc model = describe_model(file);
  return {start, std::move(file), std::move(model), std::nullopt, {}, flags.synth.seed};
}

std::string model_name(const TuneFlags& flags) {
  if (flags.shape.empty()) return std::filesystem::path(flags.session.model_path).stem().string();
  const std::string name = load_shape(flags.shape).name;
  return flags.synth.n_layers == 0 ? name : fmt::format("{} ({} layers)", name, flags.synth.n_layers);
}

std::string database_path(const TuneFlags& flags, const SessionOptions& session) {
  if (!flags.db_path.empty()) return flags.db_path;
  if (const std::string& path = session.tuning_path; !path.empty() && path != "none" && path != "shipped") return path;
  const std::string path = default_tuning_path(session.cache_dir);
  if (path.empty()) throw Error(ErrorKind::kUsage, "tune: without a cache folder there is no place for the database; give --db FILE");
  return path;
}

TuneOptions tune_options(const TuneFlags& flags, const SessionOptions& session) {
  TuneOptions options{.session = session, .model_name = model_name(flags), .kernels = flags.kernels, .depths = flags.depths,
                      .objective = flags.objective == "step" ? TuneObjective::kStep : TuneObjective::kKernel, .again = flags.again,
                      .n_repeats = flags.n_repeats};
  const double budget_s = parse_duration("--budget", flags.budget);
  options.budget = std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(budget_s));
  return options;
}

/// Of what was swept now and of what was known, also from earlier runs.
TuneReport make_report(const TuneOptions& options, const TuneOutcome& outcome, const DeviceInfo& device, const std::string& driver) {
  TuneReport report{.model = options.model_name, .device = device.name, .driver = driver,
                    .objective = std::string(objective_name(options.objective)), .records = {}, .steps = outcome.steps, .figures = {}};
  for (const KeyOutcome& key : outcome.keys)
    if (key.record) report.records.push_back(*key.record);
  for (TuneFigures& f : read_figures(journal_path(options.db_path)))
    if (f.device == device.name && f.driver == driver && f.objective == report.objective) report.figures.push_back(std::move(f));
  return report;
}

void require_sensible(const TuneFlags& flags) {
  if (flags.session.model_path.empty() == flags.shape.empty())
    throw Error(ErrorKind::kUsage, "tune: one of --model and --shape is required");
  if (flags.shape.empty() && flags.synth.n_layers != 0)
    throw Error(ErrorKind::kUsage, "--layers: a file has the layers it has; only a --shape can do with fewer");
  if (!flags.session.may_compile) throw Error(ErrorKind::kUsage, "tune: candidates have to be compiled, and --no-jit forbids it");
  if (flags.dry_run && !flags.report_path.empty()) throw Error(ErrorKind::kUsage, "--report: a dry run measures nothing to report");
}

int run_tune_verb(const TuneFlags& flags) {
  require_sensible(flags);
  const SessionOptions session = resolve_options(flags.session, read_environment());
  TuneOptions options = tune_options(flags, session);
  if (flags.dry_run) {
    const DeviceInfo device = require_inspected_device(flags.device, session);
    write_stdout(format_dry_run(device, dry_run_tune(options, open_tuned_model(flags, false).model, device)));
    return 0;
  }
  const std::optional<int> ordinal = cuda_ordinal(flags.device == "auto" ? "cuda" : flags.device);
  if (!ordinal)
    throw Error(ErrorKind::kUsage, fmt::format("--device: '{}' can't be measured on; cuda or cuda:N can, other cards with --dry-run", flags.device));
  options.db_path = database_path(flags, session);
  const Driver& drv = require_driver(session.libcuda_path);   // a missing GPU is known before the file is read
  const DeviceInfo device = device_info(drv, *ordinal);
  const OpenedModel opened = open_tuned_model(flags, true);
  const TuneOutcome outcome = run_tune(options, opened, drv, *ordinal);
  if (!flags.report_path.empty())
    atomic_write(flags.report_path, tune_report_html(make_report(options, outcome, device, tuning_driver(drv.version))), 0644);
  write_stdout(format_outcome(outcome));
  log_info("tune", "choices are in {}; sessions on this card use them from now on", options.db_path);
  return 0;
}

}  // namespace

void add_tune_verb(VerbTable& verbs) {
  const auto flags = std::make_shared<TuneFlags>();
  Flags parser = verbs.add("tune", "measure which tile sizes are fastest on this card, for later loads", [flags] { return run_tune_verb(*flags); });
  SessionOptions& session = flags->session;
  session.show_progress = isatty(STDERR_FILENO) == 1;
  parser.config(session);
  parser.text("-m,--model", session.model_path, "GGUF file (first part of a split one)", "FILE");
  parser.text("--shape", flags->shape, fmt::format("no file: random weights made in GPU memory, in the shapes of {}, or of a .toml file",
                                                   fmt::join(shape_names(), ", ")), "NAME");
  parser.integer("--layers", flags->synth.n_layers, 0, 4096, "of --shape, how many layers; 0: as the shape says");
  parser.text("--kernels", flags->kernels, "only kernels whose name has this text, or matches it with * and ?", "GLOB");
  parser.text("--budget", flags->budget, "stop after 90s, 5m, 1h (default 5m); the next run goes on", "TIME");
  parser.choice("--objective", flags->objective, {"step", "kernel"}, "what must get faster: the whole decode step (default), or the kernel alone");
  parser.integers("-d,--depth", flags->depths, 0, 1 << 24, "tokens in the context while measuring (default: three depths of each step)");
  parser.integer("-c,--ctx", session.max_ctx_tokens, 0, 1 << 24, "longest context to tune for; 0: the model's own, at most 4096");
  parser.integer("-r,--repeats", flags->n_repeats, 3, 1000, "pairs of samples that decide (default 25)");
  parser.text("--db", flags->db_path, "tuning database (default: the one that sessions read)", "FILE");
  parser.toggle("--again", flags->again, "also kernels that the database knows for this card and driver");
  parser.text("--report", flags->report_path, "write a page with a chart for each kernel", "FILE.html");
  parser.toggle("--dry-run", flags->dry_run, "compile and prune only, and list what would be measured; needs no GPU");
  parser.text("--device", flags->device, "cuda (default) or cuda:N; with --dry-run also a profile's name or file", "NAME");
  parser.integer("-t,--threads", session.n_threads, 0, 4096, "threads of the compiler and the loader; 0: all cores");
  parser.text("--libcuda", session.libcuda_path, "driver library to open instead of libcuda.so.1", "FILE");
  parser.kernels(session);
}

}  // namespace sj
