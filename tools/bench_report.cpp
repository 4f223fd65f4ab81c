#include "tools/bench_report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr double kBytesPerGb = 1e9;

struct Rate {
  double median = 0, low = 0, high = 0;
  double gb_per_s = 0, percent_of_peak = 0;   // 0: unknown
};

Rate rate_of(const BenchSetting& setting, const BenchRow& row) {
  Rate rate;
  if (row.tokens_per_s.empty()) return rate;
  rate.median = median(row.tokens_per_s);
  const auto [low, high] = std::minmax_element(row.tokens_per_s.begin(), row.tokens_per_s.end());
  rate.low = *low;
  rate.high = *high;
  rate.gb_per_s = row.bytes_per_token * rate.median / kBytesPerGb;
  if (setting.peak_gb_per_s > 0) rate.percent_of_peak = 100 * rate.gb_per_s / setting.peak_gb_per_s;
  return rate;
}

// A dash where nothing is known: a zero would read as a measurement.
std::string number_or_dash(double value, int digits) { return value > 0 ? fmt::format("{:.{}f}", value, digits) : "-"; }

std::string markdown(const BenchSetting& setting, std::span<const BenchRow> rows) {
  std::string text = "| model | size GB | device | test | context | tok/s | min .. max | GB/s | % of peak | launches |\n"
                     "| :--- | ---: | :--- | :--- | :--- | ---: | ---: | ---: | ---: | ---: |\n";
  for (const BenchRow& row : rows) {
    const Rate rate = rate_of(setting, row);
    text += fmt::format("| {} | {} | {} | {} | {} | {:.2f} | {:.2f} .. {:.2f} | {} | {} | {} |\n", setting.model,
                        number_or_dash(static_cast<double>(setting.weight_bytes) / kBytesPerGb, 2), setting.device, row.name(),
                        row.is_prefill ? "-" : setting.kv_type == "f16" ? setting.fill : setting.fill + " " + setting.kv_type, rate.median, rate.low, rate.high, number_or_dash(rate.gb_per_s, 1),
                        number_or_dash(rate.percent_of_peak, 1), number_or_dash(row.launches_per_token, 0));
  }
  return text;
}

nlohmann::ordered_json json_row(const BenchSetting& setting, const BenchRow& row) {
  const Rate rate = rate_of(setting, row);
  return {{"model", setting.model},
          {"architecture", setting.architecture},
          {"device", setting.device},
          {"weight_bytes", setting.weight_bytes},
          {"peak_gb_per_s", setting.peak_gb_per_s},
          {"test", row.name()},
          {"n_tokens", row.n_tokens},
          {"depth_tokens", row.depth_tokens},
          {"context", row.is_prefill ? "" : setting.fill},
          {"kv_type", setting.kv_type},
          {"tokens_per_s", rate.median},
          {"min_tokens_per_s", rate.low},
          {"max_tokens_per_s", rate.high},
          {"samples", row.tokens_per_s},
          {"bytes_per_token", row.bytes_per_token},
          {"gb_per_s", rate.gb_per_s},
          {"percent_of_peak", rate.percent_of_peak},
          {"launches_per_token", row.launches_per_token}};
}

std::string csv_field(const nlohmann::ordered_json& value) {
  if (!value.is_string()) return value.dump();
  std::string quoted = "\"";
  for (const char c : value.get_ref<const std::string&>()) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string csv(const BenchSetting& setting, std::span<const BenchRow> rows) {
  std::string text;
  for (const BenchRow& row : rows) {
    nlohmann::ordered_json fields = json_row(setting, row);
    fields.erase("samples");
    std::string names, values;
    for (const auto& [name, value] : fields.items()) {
      names += (names.empty() ? "" : ",") + name;
      values += (values.empty() ? "" : ",") + csv_field(value);
    }
    if (text.empty()) text = names + "\n";
    text += values + "\n";
  }
  return text;
}

struct OpRow {
  std::string label;
  int32_t layer = -1;
  uint32_t count = 0;
  double alone_us = 0, bytes = 0;
  LaunchSlice in_step;
};

bool are_traced(std::span<const OpTiming> ops) {
  return !ops.empty() && std::all_of(ops.begin(), ops.end(), [](const OpTiming& op) { return op.in_step.has_value(); });
}

/// The time that counts: inside the step where that is known.
double time_of(const OpRow& row, bool is_traced) { return is_traced ? row.in_step.us : row.alone_us; }

std::vector<OpRow> group_ops(std::span<const OpTiming> ops, bool is_detailed) {
  std::vector<OpRow> rows;
  for (const OpTiming& op : ops) {
    const auto same = std::find_if(rows.begin(), rows.end(), [&](const OpRow& row) { return row.label == op.label; });
    OpRow& row = !is_detailed && same != rows.end() ? *same : rows.emplace_back(OpRow{op.label, op.layer});
    const LaunchSlice slice = op.in_step.value_or(LaunchSlice{});
    row.count += 1;
    row.alone_us += op.median_us;
    row.bytes += op.cost.bytes;
    row.in_step.us += slice.us;
    row.in_step.gap_us += slice.gap_us;
    row.in_step.early_us += slice.early_us;
    row.in_step.empty_us += slice.empty_us;
  }
  if (is_detailed) return rows;
  const bool is_traced = are_traced(ops);
  std::stable_sort(rows.begin(), rows.end(), [=](const OpRow& a, const OpRow& b) { return time_of(a, is_traced) > time_of(b, is_traced); });
  return rows;
}

struct OpSums {
  double us = 0, gap_us = 0, empty_us = 0, alone_us = 0, bytes = 0;
  double traced_us() const { return us + gap_us; }
  /// Time with no launch on the card, between steps too.
  double idle_us(double step_us) const { return empty_us + std::max(step_us - traced_us(), 0.0); }
};

OpSums sum_ops(std::span<const OpRow> rows) {
  OpSums sums;
  for (const OpRow& row : rows) {
    sums.us += row.in_step.us;
    sums.gap_us += row.in_step.gap_us;
    sums.empty_us += row.in_step.empty_us;
    sums.alone_us += row.alone_us;
    sums.bytes += row.bytes;
  }
  return sums;
}

nlohmann::ordered_json json_ops(const BenchSetting& setting, const BenchRow& row, double step_us) {
  const bool is_traced = are_traced(row.ops);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  const std::vector<OpRow> rows = group_ops(row.ops, false);
  for (const OpRow& op : rows) {
    const double us = time_of(op, is_traced), gb_per_s = us > 0 ? op.bytes / (us * 1e3) : 0;
    list.push_back({{"launch", op.label}, {"count", op.count}, {"us_alone", op.alone_us}});
    if (is_traced) list.back().update({{"us_in_step", op.in_step.us}, {"gap_us", op.in_step.gap_us}, {"early_us", op.in_step.early_us}});
    list.back().update({{"bytes", op.bytes}, {"gb_per_s", gb_per_s}, {"percent_of_peak", percent(gb_per_s, setting.peak_gb_per_s)},
                        {"percent_of_step", percent(us, step_us)}});
  }
  nlohmann::ordered_json report = {{"step_us", step_us}, {"launches", row.ops.size()}, {"bytes", sum_ops(rows).bytes}};
  if (is_traced) {
    const OpSums sums = sum_ops(rows);
    report.update({{"traced_step_us", sums.traced_us()}, {"gaps_us", sums.gap_us}, {"between_steps_us", step_us - sums.traced_us()},
                   {"gaps_percent", percent(sums.gap_us, step_us)}, {"idle_percent", percent(sums.idle_us(step_us), step_us)}});
  }
  report["ops"] = std::move(list);
  return report;
}

}  // namespace

std::string BenchRow::name() const {
  if (is_prefill) return fmt::format("pp{}", n_tokens);
  return fmt::format("tg{} @ d{}", n_tokens, depth_tokens);
}

double median(std::span<const double> samples) {
  if (samples.empty()) return 0;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

std::string format_rows(const BenchSetting& setting, std::span<const BenchRow> rows, std::string_view format) {
  if (format == "md") return markdown(setting, rows);
  if (format == "csv") return csv(setting, rows);
  if (format != "json") throw Error(ErrorKind::kInternal, fmt::format("bench: no format '{}'", format));
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const BenchRow& row : rows) {
    list.push_back(json_row(setting, row));
    if (!row.ops.empty()) list.back()["per_op"] = json_ops(setting, row, row.tokens_per_s.empty() ? 0 : 1e6 / median(row.tokens_per_s));
  }
  return list.dump(2) + "\n";
}

namespace {

/// One table of launches; the columns that only a traced step has are left out of the others.
class OpTable {
 public:
  OpTable(const BenchSetting& setting, double step_us, bool is_traced, bool is_detailed)
      : peak_gb_per_s_(setting.peak_gb_per_s), step_us_(step_us), is_traced_(is_traced) {
    text_ = is_traced ? fmt::format("| launch | {} | us in step | gap before | early | us alone | MB | GB/s | % of peak | % of step |\n"
                                    "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n", is_detailed ? "layer" : "count")
                      : fmt::format("| launch | {} | us | MB | GB/s | % of peak | % of step |\n"
                                    "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |\n", is_detailed ? "layer" : "count");
  }

  /// `traced_columns`: gap, early and alone, as they shall stand there.
  void add(const std::string& label, const std::string& second, double us, double bytes, const std::string& traced_columns) {
    const double gb_per_s = us > 0 ? bytes / (us * 1e3) : 0;
    text_ += fmt::format("| {} | {} | {:.2f} |{} {} | {} | {} | {} |\n", label, second, us, is_traced_ ? traced_columns : "",
                         number_or_dash(bytes / 1e6, 3), number_or_dash(gb_per_s, 1), number_or_dash(percent(gb_per_s, peak_gb_per_s_), 1),
                         step_us_ > 0 ? fmt::format("{:.1f}", percent(us, step_us_)) : "-");
  }
  std::string& text() { return text_; }

 private:
  double peak_gb_per_s_, step_us_;
  bool is_traced_;
  std::string text_;
};

}  // namespace

std::string format_op_table(const BenchSetting& setting, std::span<const OpTiming> ops, double step_us, bool is_detailed) {
  const bool is_traced = are_traced(ops);
  const std::vector<OpRow> rows = group_ops(ops, is_detailed);
  const OpSums sums = sum_ops(rows);
  OpTable table(setting, step_us, is_traced, is_detailed);
  for (const OpRow& row : rows) {
    const std::string layer = row.layer >= 0 ? fmt::to_string(row.layer) : "-";
    table.add(row.label, is_detailed ? layer : fmt::to_string(row.count), time_of(row, is_traced), row.bytes,
              fmt::format(" {:.2f} | {:.2f} | {:.2f} |", row.in_step.gap_us, row.in_step.early_us, row.alone_us));
  }
  constexpr const char* kNoColumns = " - | - | - |";
  const std::string step_columns = fmt::format(" - | - | {:.2f} |", sums.alone_us);
  const std::string n_launches = fmt::to_string(ops.size());
  if (!is_traced) {
    if (step_us > 0) table.add("gaps (negative: launches overlap)", "-", step_us - sums.alone_us, 0, kNoColumns);
    table.add("step", n_launches, step_us > 0 ? step_us : sums.alone_us, sums.bytes, step_columns);
    return table.text();
  }
  const double whole_us = step_us > 0 ? step_us : sums.traced_us();
  table.add("gaps between launches", "-", sums.gap_us, 0, kNoColumns);
  if (step_us > 0) table.add("between steps (negative: slower with the clock's stamps)", "-", step_us - sums.traced_us(), 0, kNoColumns);
  table.add("step", n_launches, whole_us, sums.bytes, step_columns);
  table.text() += fmt::format(
      "\nidle {:.1f} % of the step, with no launch on the card; gaps {:.1f} %, in which the next launch fetches weights but waits\n"
      "us in step: from a launch's inputs being ready to its last block's end, in the step's own graph. gap: from the end of the\n"
      "launch before to that. early: how long it was on the card before, fetching weights; it overlaps others and is in no sum, and a\n"
      "GB/s above the peak means such bytes. us alone: with nothing before or behind it.\n",
      percent(sums.idle_us(whole_us), whole_us), percent(sums.gap_us, whole_us));
  return table.text();
}

}  // namespace sj
