// `sparkjit synth`: a GGUF file in the shape of a real model, with random weights, for benchmarks before downloading one.
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jit/base/log.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "tools/cli.h"

namespace sj {
namespace {

struct SynthVerbOptions {
  std::string shape;
  SynthOptions synth;
};

int run_synth(const SynthVerbOptions& options) {
  const ShapeFile shape = load_shape(options.shape);
  SynthOptions synth = options.synth;
  std::unique_ptr<ProgressBar> bar;   // the total is known with the first report
  uint64_t last_done_bytes = 0;
  synth.progress = [&](uint64_t done_bytes, uint64_t total_bytes) {
    if (!bar) bar = std::make_unique<ProgressBar>("synth", total_bytes);
    bar->add(done_bytes - last_done_bytes);
    last_done_bytes = done_bytes;
  };
  const uint64_t n_bytes = write_synthetic_gguf(shape, synth);
  bar.reset();
  write_stdout(fmt::format("{} {} bytes\n", synth.path, n_bytes));
  return 0;
}

}  // namespace

void add_synth_verb(VerbTable& verbs) {
  const auto options = std::make_shared<SynthVerbOptions>();
  Flags flags = verbs.add("synth", "write a GGUF with a model's shapes and random weights", [options] { return run_synth(*options); });
  flags.required_text("--shape", options->shape, fmt::format("one of {}, or a .toml file", fmt::join(shape_names(), ", ")), "NAME");
  flags.required_text("-o,--out", options->synth.path, "file to write", "FILE");
  flags.integer("--layers", options->synth.n_layers, 0, 4096, "how many layers; 0: as the shape says");
  flags.integer("--seed", options->synth.seed, 0, INT64_MAX, "of the weights: same seed, same file (default 0)");
  flags.integer("-t,--threads", options->synth.n_threads, 0, 4096, "threads; 0: all cores");
}

}  // namespace sj
