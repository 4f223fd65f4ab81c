#include "cache/tuning_db.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "jit/base/error.h"
#include "jit/base/file.h"
#include "jit/base/toml_text.h"
#include "jit/embedded_sources.h"

namespace sj {
namespace {

constexpr int64_t kFormat = 1;
constexpr std::string_view kTunedFolder = "tuned/";

/// The fields of one record, read with messages that name where they stand.
class RecordReader {
 public:
  RecordReader(const toml::table& table, std::string where) : table_(table), where_(std::move(where)) {}

  std::string text(std::string_view name) {
    const toml::value<std::string>* value = take(name).as_string();
    if (value == nullptr || value->get().empty()) fail(name, "a string that is not empty");
    return value->get();
  }
  double microseconds(std::string_view name) {
    const std::optional<double> value = take(name).value<double>();
    if (!value || !std::isfinite(*value) || *value < 0) fail(name, "microseconds, 0 or more");
    return *value;
  }
  uint32_t count(std::string_view name) {
    const toml::value<int64_t>* value = take(name).as_integer();
    if (value == nullptr || value->get() < 0 || value->get() > std::numeric_limits<uint32_t>::max()) fail(name, "a count");
    return static_cast<uint32_t>(value->get());
  }
  TuneValues values(std::string_view name) {
    const toml::table* list = take(name).as_table();
    if (list == nullptr || list->empty()) fail(name, "a table of whole numbers, { kWarps = 8 }");
    TuneValues values;
    for (auto&& [key, node] : *list) {
      const toml::value<int64_t>* value = node.as_integer();
      if (value == nullptr) fail(fmt::format("{}.{}", name, key.str()), "a whole number");
      values[std::string(key.str())] = value->get();
    }
    return values;
  }
  /// Throws for a field that was not asked for: a misspelt one.
  void finish() const {
    for (auto&& [key, node] : table_)
      if (std::find(taken_.begin(), taken_.end(), key.str()) == taken_.end())
        throw Error(ErrorKind::kUsage, fmt::format("{}: {}: no such field", where_, key.str()));
  }

 private:
  const toml::node& take(std::string_view name) {
    const toml::node* node = table_.get(name);
    if (node == nullptr) throw Error(ErrorKind::kUsage, fmt::format("{}: {} is missing", where_, name));
    taken_.emplace_back(name);
    return *node;
  }
  [[noreturn]] void fail(std::string_view name, std::string_view expected) const {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {}: expected {}", where_, name, expected));
  }

  const toml::table& table_;
  std::string where_;
  std::vector<std::string> taken_;
};

TuneRecord read_record(const toml::table& table, const std::string& where) {
  RecordReader reader(table, where);
  TuneRecord r;
  r.key = reader.text("key");
  r.device = reader.text("device");
  r.driver = reader.text("driver");
  r.arch = reader.text("arch");
  r.values = reader.values("values");
  r.default_values = reader.values("default_values");
  r.default_us = reader.microseconds("default_us");
  r.tuned_us = reader.microseconds("tuned_us");
  r.noise_us = reader.microseconds("noise_us");
  r.objective = reader.text("objective");
  r.context = reader.text("context");
  r.date = reader.text("date");
  r.n_candidates = reader.count("candidates");
  r.n_pruned = reader.count("pruned");
  reader.finish();
  return r;
}

/// A TOML string, with every character that is not plain escaped.
std::string toml_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out += fmt::format("\\{}", c);
    else if (byte < 0x20 || byte == 0x7F) out += fmt::format("\\u{:04X}", byte);
    else out += c;
  }
  return out + "\"";
}

std::string values_text(const TuneValues& values) {
  std::string text;
  for (const auto& [name, value] : values) text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", toml_text(name), value);
  return fmt::format("{{ {} }}", text);
}

std::string float_text(double value) {
  const std::string text = fmt::format("{}", value);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

bool is_same_kernel(const TuneRecord& a, const TuneRecord& b) {
  return a.key == b.key && a.device == b.device && a.driver == b.driver && a.arch == b.arch;
}

}  // namespace

TuningDb parse_tuning_db(std::string_view text, const std::string& origin) {
  const toml::table table = parse_toml(text, origin);
  const std::optional<int64_t> format = table["format"].value_exact<int64_t>();
  if (!format || *format < 1) throw Error(ErrorKind::kUsage, fmt::format("{}: format: expected {}, found none", origin, kFormat));
  if (*format > kFormat)
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: format: expected {}, found {}: written by a newer sparkjit", origin, kFormat, *format));
  TuningDb db;
  for (auto&& [key, node] : table) {
    if (key.str() == "format") continue;
    const toml::array* list = node.as_array();
    if (key.str() != "kernel" || list == nullptr)
      throw Error(ErrorKind::kUsage, fmt::format("{}:{}: {}: expected format and [[kernel]] records only", origin, key.source().begin.line, key.str()));
    for (const toml::node& item : *list) {
      const std::string where = fmt::format("{}:{}: kernel record", origin, item.source().begin.line);
      if (!item.is_table()) throw Error(ErrorKind::kUsage, where + ": expected a table");
      db.records.push_back(read_record(*item.as_table(), where));
    }
  }
  return db;
}

std::string tuning_db_text(const TuningDb& db) {
  std::string text = fmt::format("# Tile sizes that `sparkjit tune` measured to be the fastest. A record without effect has values = default_values.\n"
                                 "format = {}\n", kFormat);
  for (const TuneRecord& r : db.records)
    text += fmt::format("\n[[kernel]]\nkey = {}\ndevice = {}\ndriver = {}\narch = {}\nvalues = {}\ndefault_values = {}\ndefault_us = {}\n"
                        "tuned_us = {}\nnoise_us = {}\nobjective = {}\ncontext = {}\ndate = {}\ncandidates = {}\npruned = {}\n",
                        toml_text(r.key), toml_text(r.device), toml_text(r.driver), toml_text(r.arch), values_text(r.values),
                        values_text(r.default_values), float_text(r.default_us), float_text(r.tuned_us), float_text(r.noise_us),
                        toml_text(r.objective), toml_text(r.context), toml_text(r.date), r.n_candidates, r.n_pruned);
  return text;
}

TuningDb read_tuning_db(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return {};
  return parse_tuning_db(read_file(path), path);
}

void write_tuning_db(const std::string& path, const TuningDb& db) { atomic_write(path, tuning_db_text(db), 0644); }

void merge_records(TuningDb& db, std::span<const TuneRecord> newer) {
  for (const TuneRecord& record : newer) {
    const auto old = std::find_if(db.records.begin(), db.records.end(), [&](const TuneRecord& r) { return is_same_kernel(r, record); });
    if (old == db.records.end()) db.records.push_back(record);
    else if (old->date <= record.date) *old = record;
  }
}

Tuning tuning_for(const TuningDb& db, const DeviceInfo& device, std::string_view driver) {
  std::map<std::string, const TuneRecord*> best;
  const auto is_better = [&](const TuneRecord& a, const TuneRecord& b) {
    const bool a_matches = a.driver == driver, b_matches = b.driver == driver;
    return a_matches != b_matches ? a_matches : a.date > b.date;
  };
  for (const TuneRecord& r : db.records) {
    if (r.device != device.name || r.arch != device.target()) continue;
    const TuneRecord*& known = best[r.key];
    if (known == nullptr || is_better(r, *known)) known = &r;
  }
  Tuning tuning;
  for (const auto& [key, record] : best)
    if (!record->is_default()) tuning.chosen[key] = record->values;
  return tuning;
}

const TuningDb& shipped_tunings() {
  static const TuningDb db = [] {
    TuningDb all;
    for (const EmbeddedSource& source : embedded_sources())
      if (source.path.starts_with(kTunedFolder)) merge_records(all, parse_tuning_db(source.text, std::string(source.path)).records);
    return all;
  }();
  return db;
}

std::string default_tuning_path(const std::string& cache_dir) {
  return cache_dir.empty() || cache_dir == "none" ? std::string() : cache_dir + "/tuning.toml";
}

}  // namespace sj
