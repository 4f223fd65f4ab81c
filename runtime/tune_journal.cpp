#include "runtime/tune_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "jit/base/file.h"

namespace sj {
namespace {

using Json = nlohmann::ordered_json;
constexpr TuneVerdict kVerdicts[] = {TuneVerdict::kPruned, TuneVerdict::kWrong, TuneVerdict::kFailed,
                                     TuneVerdict::kMeasured, TuneVerdict::kWinner, TuneVerdict::kDefault};

Json to_json(const TuneFigures& f) {
  return {{"device", f.device}, {"driver", f.driver}, {"key", f.key}, {"model", f.model}, {"objective", f.objective}, {"date", f.date},
          {"depth_tokens", f.depth_tokens}, {"values", f.values}, {"verdict", verdict_name(f.verdict)}, {"reason", f.reason}, {"why", f.why},
          {"registers", f.registers}, {"smem_bytes", f.smem_bytes}, {"blocks_per_sm", f.blocks_per_sm}, {"n_threads", f.n_threads},
          {"n_blocks", f.n_blocks}, {"n_launches", f.n_launches}, {"bytes", f.bytes}, {"alone_us", f.alone_us}, {"step_us", f.step_us},
          {"gain_us", f.gain_us}, {"noise_us", f.noise_us}, {"peak_gb_per_s", f.peak_gb_per_s}, {"rounds", f.rounds}};
}

TuneFigures from_json(const Json& j) {
  TuneFigures f;
  j.at("device").get_to(f.device), j.at("driver").get_to(f.driver), j.at("key").get_to(f.key), j.at("model").get_to(f.model);
  j.at("objective").get_to(f.objective), j.at("date").get_to(f.date), j.at("depth_tokens").get_to(f.depth_tokens);
  j.at("values").get_to(f.values), j.at("reason").get_to(f.reason), j.at("why").get_to(f.why);
  for (const TuneVerdict verdict : kVerdicts)
    if (j.at("verdict").get<std::string>() == verdict_name(verdict)) f.verdict = verdict;
  j.at("registers").get_to(f.registers), j.at("smem_bytes").get_to(f.smem_bytes), j.at("blocks_per_sm").get_to(f.blocks_per_sm);
  j.at("n_threads").get_to(f.n_threads), j.at("n_blocks").get_to(f.n_blocks), j.at("n_launches").get_to(f.n_launches);
  j.at("bytes").get_to(f.bytes), j.at("alone_us").get_to(f.alone_us), j.at("step_us").get_to(f.step_us);
  j.at("gain_us").get_to(f.gain_us), j.at("noise_us").get_to(f.noise_us), j.at("peak_gb_per_s").get_to(f.peak_gb_per_s);
  j.at("rounds").get_to(f.rounds);
  return f;
}

std::optional<TuneFigures> parse_line(std::string_view line) {
  try {
    return from_json(Json::parse(line));
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

}  // namespace

std::string_view verdict_name(TuneVerdict verdict) {
  switch (verdict) {
    case TuneVerdict::kPruned: return "pruned";
    case TuneVerdict::kWrong: return "wrong";
    case TuneVerdict::kFailed: return "failed";
    case TuneVerdict::kMeasured: return "measured";
    case TuneVerdict::kWinner: return "winner";
    case TuneVerdict::kDefault: return "default";
  }
  return "?";
}

std::string journal_path(const std::string& db_path) {
  constexpr std::string_view kSuffix = ".toml";
  const bool has_suffix = db_path.ends_with(kSuffix);
  return (has_suffix ? db_path.substr(0, db_path.size() - kSuffix.size()) : db_path) + ".candidates.jsonl";
}

void append_figures(const std::string& path, std::span<const TuneFigures> figures) {
  std::string text = "\n";   // ends a line that a killed process began; empty lines are skipped
  for (const TuneFigures& f : figures) text += to_json(f).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) throw Error(ErrorKind::kIo, fmt::format("{}: can't open: {}", path, errno_text(errno)));
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = errno;
      ::close(fd);
      throw Error(ErrorKind::kIo, fmt::format("{}: can't write: {}", path, errno_text(error)));
    }
    done += static_cast<size_t>(n);
  }
  ::close(fd);
}

std::vector<TuneFigures> read_figures(const std::string& path) {
  std::vector<TuneFigures> all;
  if (!std::filesystem::exists(path)) return all;
  const std::string text = read_file(path);
  std::map<std::tuple<std::string, std::string, std::string, std::string, TuneValues>, size_t> places;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (std::optional<TuneFigures> f = parse_line(std::string_view(text).substr(begin, end - begin))) {
      const auto [it, is_new] = places.try_emplace({f->device, f->driver, f->objective, f->key, f->values}, all.size());
      if (is_new) all.push_back(std::move(*f));
      else all[it->second] = std::move(*f);
    }
    begin = end + 1;
  }
  return all;
}

}  // namespace sj
