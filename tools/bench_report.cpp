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
                        row.is_prefill ? "-" : setting.fill, rate.median, rate.low, rate.high, number_or_dash(rate.gb_per_s, 1),
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
  double us = 0, bytes = 0;
};

std::vector<OpRow> group_ops(std::span<const OpTiming> ops, bool is_detailed) {
  std::vector<OpRow> rows;
  for (const OpTiming& op : ops) {
    const auto same = std::find_if(rows.begin(), rows.end(), [&](const OpRow& row) { return row.label == op.label; });
    OpRow& row = !is_detailed && same != rows.end() ? *same : rows.emplace_back(OpRow{op.label, op.layer});
    row.count += 1;
    row.us += op.median_us;
    row.bytes += op.cost.bytes;
  }
  if (!is_detailed) std::stable_sort(rows.begin(), rows.end(), [](const OpRow& a, const OpRow& b) { return a.us > b.us; });
  return rows;
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
  for (const BenchRow& row : rows) list.push_back(json_row(setting, row));
  return list.dump(2) + "\n";
}

std::string format_op_table(const BenchSetting& setting, std::span<const OpTiming> ops, double step_us, bool is_detailed) {
  std::string text = fmt::format("| launch | {} | us | MB | GB/s | % of peak | % of step |\n"
                                 "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |\n", is_detailed ? "layer" : "count");
  const auto add = [&](const std::string& label, const std::string& second, double us, double bytes) {
    const double gb_per_s = us > 0 ? bytes / (us * 1e3) : 0;
    const double percent = setting.peak_gb_per_s > 0 ? 100 * gb_per_s / setting.peak_gb_per_s : 0;
    text += fmt::format("| {} | {} | {:.2f} | {} | {} | {} | {} |\n", label, second, us, number_or_dash(bytes / 1e6, 3),
                        number_or_dash(gb_per_s, 1), number_or_dash(percent, 1),
                        step_us > 0 ? fmt::format("{:.1f}", 100 * us / step_us) : "-");
  };
  double sum_us = 0, sum_bytes = 0;
  for (const OpRow& row : group_ops(ops, is_detailed)) {
    const std::string layer = row.layer >= 0 ? fmt::to_string(row.layer) : "-";
    add(row.label, is_detailed ? layer : fmt::to_string(row.count), row.us, row.bytes);
    sum_us += row.us;
    sum_bytes += row.bytes;
  }
  if (step_us > 0) add("gaps (negative: launches overlap)", "-", step_us - sum_us, 0);
  add("step", fmt::to_string(ops.size()), step_us > 0 ? step_us : sum_us, sum_bytes);
  return text;
}

}  // namespace sj
