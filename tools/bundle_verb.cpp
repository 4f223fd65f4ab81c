// `sparkjit bundle`: looks into files of kernels compiled ahead, joins them, and makes the keys that sign them.
#include <filesystem>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "cache/bundle.h"
#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/driver.h"
#include "runtime/options.h"
#include "tools/cli.h"

namespace sj {
namespace {

struct BundleVerbOptions {
  SessionOptions session;   // for the trusted keys
  std::string action;
  std::vector<std::string> files;
  std::string out_path, sign_path;
  bool as_json = false;
};

std::string compiler_text(const CompilerId& id) {
  return fmt::format("nvrtc {} ({})", cuda_version_text(id.version), id.build_id);
}

std::string signer_text(const Bundle& bundle) { return bundle.signer() ? bundle.signer()->hex() : "nobody"; }

std::string list_text(const Bundle& bundle) {
  const BundleManifest& m = bundle.manifest();
  std::string text = fmt::format("file     {}\nbytes    {}\nkernels  {}\nmade by  {}\nsigned   by {}\n", bundle.name(), bundle.size_bytes(),
                                 bundle.n_entries(), fmt::join(m.made_by, ", "), signer_text(bundle));
  for (const CompilerId& id : m.compilers) text += fmt::format("compiler {}\n", compiler_text(id));
  for (const auto& [target, options] : m.options) text += fmt::format("options  {}\n", fmt::join(options, " "));
  for (const BundleDevice& d : m.devices)
    text += fmt::format("card     {} ({}, {} SMs, {} KB shared memory a block)\n", d.name, d.target, d.n_sms, d.smem_per_block_bytes / 1024);
  for (const BundleModel& model : m.models)
    text += fmt::format("model    {} on {}: {} kernels, batches of {}, KV cache {}{}\n", model.model, model.device, model.n_kernels, model.prefill_tokens, model.kv_type,
                        model.is_f32 ? ", float32" : "");
  text += "\nkey           target   regs  spilled B  smem B    bytes  kernel\n";
  for (uint64_t i = 0; i < bundle.n_entries(); ++i) {
    std::string why;
    const std::optional<Cubin> cubin = bundle.read_entry(i, &why);
    const std::string key = bundle.entry_key(i).substr(0, 12);
    text += cubin ? fmt::format("{}  {:<7}  {:>4}  {:>9}  {:>6}  {:>7}  {}\n", key, cubin->target, cubin->resources.registers,
                                cubin->resources.spill_bytes, cubin->resources.static_smem_bytes, cubin->bytes.size(), cubin->label)
                  : fmt::format("{}  damaged: {}\n", key, why);
  }
  return text;
}

nlohmann::ordered_json list_json(const Bundle& bundle) {
  nlohmann::ordered_json kernels = nlohmann::ordered_json::array();
  for (uint64_t i = 0; i < bundle.n_entries(); ++i) {
    std::string why;
    const std::optional<Cubin> cubin = bundle.read_entry(i, &why);
    if (cubin)
      kernels.push_back({{"key", bundle.entry_key(i)}, {"target", cubin->target}, {"arch", cubin_arch(cubin->bytes)}, {"label", cubin->label},
                         {"registers", cubin->resources.registers}, {"spill_bytes", cubin->resources.spill_bytes},
                         {"static_smem_bytes", cubin->resources.static_smem_bytes}, {"bytes", cubin->bytes.size()}});
    else
      kernels.push_back({{"key", bundle.entry_key(i)}, {"damaged", why}});
  }
  return {{"file", bundle.name()}, {"bytes", bundle.size_bytes()},
          {"signer", bundle.signer() ? nlohmann::ordered_json(bundle.signer()->hex()) : nlohmann::ordered_json()},
          {"manifest", nlohmann::ordered_json::parse(manifest_text(bundle.manifest()))}, {"kernels", kernels}};
}

int list(const BundleVerbOptions& options, const TrustedKeys& trusted) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& path : options.files) {
    const Bundle bundle = Bundle::open(path, trusted);
    if (options.as_json) all.push_back(list_json(bundle));
    else write_stdout(list_text(bundle));
  }
  if (options.as_json) write_stdout(all.dump(2) + "\n");
  return 0;
}

/// What is wrong with a bundle; nothing when it is whole.
std::vector<std::string> problems_of(const std::string& path, const TrustedKeys& trusted, std::string& summary, int& exit_code) {
  std::vector<std::string> problems;
  try {
    const Bundle bundle = Bundle::open(path, trusted);
    for (uint64_t i = 0; i < bundle.n_entries(); ++i) {
      std::string why;
      if (!bundle.read_entry(i, &why)) problems.push_back(fmt::format("entry {}: {}", bundle.entry_key(i), why));
    }
    summary = fmt::format("{} kernels, signed by {}", bundle.n_entries(), signer_text(bundle));
    if (!problems.empty()) exit_code = static_cast<int>(ErrorKind::kIo);
  } catch (const Error& error) {   // the others are looked at all the same
    problems.emplace_back(error.what());
    exit_code = error.exit_code();
  }
  return problems;
}

int verify(const BundleVerbOptions& options, const TrustedKeys& trusted) {
  int exit_code = 0;
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& path : options.files) {
    std::string summary;
    const std::vector<std::string> problems = problems_of(path, trusted, summary, exit_code);
    if (options.as_json) {
      all.push_back({{"file", path}, {"problems", problems}});
    } else {
      for (const std::string& problem : problems) write_stdout(fmt::format("{}: {}\n", path, problem));
      write_stdout(problems.empty() ? fmt::format("{}: good: {}\n", path, summary) : fmt::format("{}: {} problems\n", path, problems.size()));
    }
  }
  if (options.as_json) write_stdout(all.dump(2) + "\n");
  return exit_code;
}

void require_out(const BundleVerbOptions& options, std::string_view what) {
  if (options.out_path.empty()) throw Error(ErrorKind::kUsage, fmt::format("bundle {}: --out is missing: {}", options.action, what));
}

int merge(const BundleVerbOptions& options, const TrustedKeys& trusted) {
  require_out(options, "the bundle to write");
  std::optional<SigningKey> key;
  if (!options.sign_path.empty()) key = SigningKey::from_file(options.sign_path);
  BundleContent content;
  for (const std::string& path : options.files) content.add(Bundle::open(path, trusted));
  const std::vector<std::byte> bytes = content.encode(key ? &*key : nullptr);
  atomic_write(options.out_path, bytes, 0644);
  write_stdout(fmt::format("{} {} bytes, {} kernels, {}\n", options.out_path, bytes.size(), content.entries.size(),
                           key ? "signed by " + key->public_key().hex() : "not signed"));
  return 0;
}

int extract(const BundleVerbOptions& options, const TrustedKeys& trusted) {
  require_out(options, "the folder for the cubins");
  std::error_code failed;
  std::filesystem::create_directories(options.out_path, failed);
  if (failed) throw Error(ErrorKind::kIo, fmt::format("can't create {}: {}", options.out_path, failed.message()));
  uint64_t n_files = 0;
  for (const std::string& path : options.files) {
    const Bundle bundle = Bundle::open(path, trusted);
    for (uint64_t i = 0; i < bundle.n_entries(); ++i, ++n_files) {
      std::string why;
      const std::optional<Cubin> cubin = bundle.read_entry(i, &why);
      if (!cubin) throw Error(ErrorKind::kIo, fmt::format("bundle {}: entry {} is damaged: {}", path, bundle.entry_key(i), why));
      // Names come from the entry's key and target, whose characters are known; a label's are not.
      atomic_write(fmt::format("{}/{}.sm_{}.cubin", options.out_path, bundle.entry_key(i), cubin_arch(cubin->bytes)), cubin->bytes, 0644);
    }
  }
  write_stdout(fmt::format("{} cubins in {}\n", n_files, options.out_path));
  return 0;
}

int make_keys(const BundleVerbOptions& options) {
  for (const std::string& name : options.files) {
    const std::string secret_path = name + ".key", public_path = name + ".pub";
    for (const std::string& path : {secret_path, public_path})
      if (std::filesystem::exists(path)) throw Error(ErrorKind::kIo, fmt::format("{} exists; a key is not replaced, choose another name", path));
    const SigningKey key = SigningKey::generate();
    atomic_write(secret_path, key.text(), 0600);
    atomic_write(public_path, public_key_text(key.public_key()), 0644);
    write_stdout(fmt::format("{} the secret, for --sign\n{} {}, for --trust\n", secret_path, public_path, key.public_key().hex()));
  }
  return 0;
}

int run_bundle(const BundleVerbOptions& options) {
  const std::string action =
      parse_choice("bundle", options.action, std::vector<std::string_view>{"ls", "verify", "merge", "extract", "keygen"});
  if (action == "keygen") return make_keys(options);
  const TrustedKeys trusted = TrustedKeys::from_file(resolve_options(options.session, read_environment()).trust_path);
  if (action == "verify") return verify(options, trusted);
  if (action == "merge") return merge(options, trusted);
  if (action == "extract") return extract(options, trusted);
  return list(options, trusted);
}

}  // namespace

void add_bundle_verb(VerbTable& verbs) {
  const auto options = std::make_shared<BundleVerbOptions>();
  Flags flags = verbs.add("bundle", "list, check, join or unpack files of kernels compiled ahead", [options] { return run_bundle(*options); });
  flags.config(options->session);
  flags.required_positional("action", options->action, "ls, verify, merge (into --out), extract (into folder --out) or keygen (NAME.key, NAME.pub)");
  flags.required_positionals("files", options->files, "bundles; for keygen: names of keys");
  flags.text("-o,--out", options->out_path, "merge: bundle to write; extract: folder", "PATH");
  flags.text("--sign", options->sign_path, "merge: sign with this secret key", "FILE");
  flags.text("--trust", options->session.trust_path, "refuse bundles that no key in here has signed", "FILE");
  flags.toggle("--json", options->as_json, "ls, verify: for programs");
}

}  // namespace sj
