#include "tools/tune_report.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "jit/tuning.h"
#include "tools/bench_report.h"

namespace sj {
namespace {

/// "kWarps=16": what differs from the default.
std::string changed_text(const TuneValues& values, const TuneValues& defaults) {
  TuneValues changed;
  for (const auto& [name, value] : values)
    if (const auto it = defaults.find(name); it == defaults.end() || it->second != value) changed[name] = value;
  return changed.empty() ? "default" : tune_text(changed);
}

std::string row_text(const KeyOutcome& outcome) {
  const TuneKey& key = outcome.key;
  const std::string counts = fmt::format("{} | {}", key.candidates.size(), key.n_pruned());
  if (!outcome.record)
    return fmt::format("| {} | {} | | | | | {} |\n", key.name, outcome.state == KeyState::kUnchecked ? "can't be checked" : "no time", counts);
  const TuneRecord& r = *outcome.record;
  const std::string note = outcome.is_dropped ? " (a winner was dropped)" : outcome.state == KeyState::kKnown ? " (known)" : "";
  return fmt::format("| {} | {}{} | {:.2f} | {:.2f} | {:.2f} % | {:.2f} | {} | {} |\n", key.name, changed_text(r.values, r.default_values), note,
                     r.default_us, r.tuned_us, percent(r.default_us - r.tuned_us, r.default_us), r.noise_us, r.n_candidates, r.n_pruned);
}

std::string step_text(const StepOutcome& step) {
  const std::string head = fmt::format("step at {} tokens: ", depths_text(step.context));
  if (!step.is_measured) return head + "nothing to compare\n";
  const Comparison& c = step.comparison;
  return head + fmt::format("{:.2f} us with defaults, {:.2f} us tuned: {:.2f} % (noise {:.2f} us)\n", c.base_us, c.candidate_us,
                            percent(c.gain_us, c.base_us), c.noise_us);
}

std::string reasons_text(const std::map<std::string, size_t>& reasons) {
  std::string text;
  for (const auto& [reason, n] : reasons) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", n, reason);
  return text;
}

std::map<std::string, size_t> prune_reasons(std::span<const TuneCandidate> candidates) {
  std::map<std::string, size_t> reasons;
  for (const TuneCandidate& c : candidates)
    if (c.is_pruned()) ++reasons[std::string(prune_reason_name(c.pruned))];
  return reasons;
}

// ---- the page

constexpr std::string_view kStyle =
    "body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;color:#1c1e21;background:#fff}"
    "h1{font-size:1.4rem}h2{font-size:1.05rem;margin:2rem 0 .3rem;overflow-wrap:anywhere}p{margin:.3rem 0}"
    ".note{color:#555;font-size:.9rem}.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}"
    "td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    ".c{margin:.35rem 0;font-size:.8rem}.c b{font-weight:600}.track{background:#eef0f2;height:.8rem;border-radius:2px}"
    ".bar{height:100%;border-radius:2px;background:#7aa6d8}.default .bar{background:#8a8d91}.winner .bar{background:#2e9e5b}"
    ".lab{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem}.bad{color:#b3261e}"
    "ul{font-size:.8rem;padding-left:1.2rem;overflow-wrap:anywhere}summary{cursor:pointer;font-size:.9rem;margin:.4rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#15171a;color:#e4e6ea}.track{background:#2a2e33}.note{color:#a5a9ae}td,th{border-color:#3a3e43}"
    ".bad{color:#ff897d}}";

std::string candidate_html(const TuneFigures& f, double scale_gb_per_s, double base_us) {
  const std::string_view kind = f.verdict == TuneVerdict::kWinner ? "winner" : f.verdict == TuneVerdict::kDefault ? "default" : "other";
  const double width = scale_gb_per_s > 0 ? std::clamp(percent(f.gb_per_s(), scale_gb_per_s), 0.0, 100.0) : 0;
  const std::string mark = kind == "other" ? "" : fmt::format(" <b>{}</b>", kind);
  const std::string peak = f.peak_gb_per_s > 0 ? fmt::format(", {:.0f} % of peak", percent(f.gb_per_s(), f.peak_gb_per_s)) : "";
  const std::string gain = f.verdict == TuneVerdict::kDefault || f.rounds == 0
                               ? "" : fmt::format(" ({:+.2f} %, noise {:.2f} %)", percent(-f.gain_us, base_us), percent(f.noise_us, base_us));
  return fmt::format("<div class=\"c {}\"><div class=\"lab\"><span>{}{}</span><span>{:.0f} GB/s{}; {:.2f} us{}</span></div>"
                     "<div class=\"track\"><div class=\"bar\" style=\"width:{:.1f}%\"></div></div></div>\n",
                     kind, html_text(tune_text(f.values)), mark, f.gb_per_s(), peak, f.step_us, gain, width);
}

bool is_run(const TuneFigures& f) { return f.verdict == TuneVerdict::kMeasured || f.verdict == TuneVerdict::kWinner || f.verdict == TuneVerdict::kDefault; }

/// Most bars that stand open; the rest is folded.
constexpr size_t kOpenBars = 12;

std::string charts_html(std::vector<const TuneFigures*> measured, double base_us) {
  double scale = 0;   // peak where it is known, else the fastest
  for (const TuneFigures* f : measured) scale = std::max(scale, f->peak_gb_per_s > 0 ? f->peak_gb_per_s : f->gb_per_s());
  // The winner and the default first, then by time of the objective; what was only measured shortly by that.
  const auto rank = [](const TuneFigures* f) { return f->verdict == TuneVerdict::kWinner ? 0 : f->verdict == TuneVerdict::kDefault ? 1 : 2; };
  std::stable_sort(measured.begin(), measured.end(), [&](const TuneFigures* a, const TuneFigures* b) {
    return rank(a) != rank(b) ? rank(a) < rank(b) : a->gain_us > b->gain_us;
  });
  std::string html;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (i == kOpenBars) html += fmt::format("<details><summary>{} more</summary>\n", measured.size() - kOpenBars);
    html += candidate_html(*measured[i], scale, base_us);
  }
  return html + (measured.size() > kOpenBars ? "</details>\n" : "");
}

std::string left_out_html(const std::vector<const TuneFigures*>& wrong, const std::vector<const TuneFigures*>& pruned) {
  std::string html;
  if (!wrong.empty()) {
    html += fmt::format("<p class=\"bad\">{} compute something else, or can't run:</p><ul>\n", wrong.size());
    for (const TuneFigures* f : wrong) html += fmt::format("<li class=\"bad\">{}: {}</li>\n", html_text(tune_text(f->values)), html_text(f->why));
    html += "</ul>\n";
  }
  if (pruned.empty()) return html;
  std::map<std::string, size_t> reasons;
  for (const TuneFigures* f : pruned) ++reasons[f->reason];
  html += fmt::format("<details><summary>{} not run: {}</summary><ul>\n", pruned.size(), html_text(reasons_text(reasons)));
  for (const TuneFigures* f : pruned)
    html += fmt::format("<li>{}: {}: {}</li>\n", html_text(tune_text(f->values)), html_text(f->reason), html_text(f->why));
  return html + "</ul></details>\n";
}

std::string kernel_html(const TuneRecord& r, std::span<const TuneFigures> figures) {
  std::vector<const TuneFigures*> measured, wrong, pruned;
  const TuneFigures* base = nullptr;
  for (const TuneFigures& f : figures) {
    if (f.key != r.key) continue;
    if (f.verdict == TuneVerdict::kDefault) base = &f;
    if (f.verdict == TuneVerdict::kPruned) pruned.push_back(&f);
    else if (!is_run(f)) wrong.push_back(&f);
    else if (f.step_us > 0 || f.alone_us > 0) measured.push_back(&f);
  }
  std::string html = fmt::format("<h2>{}</h2>\n<p>{}: {:.2f} us, with the default {:.2f} us ({:.2f} %; noise {:.2f} us)</p>\n", html_text(r.key),
                                 html_text(r.is_default() ? "the default stays" : changed_text(r.values, r.default_values)), r.tuned_us, r.default_us,
                                 percent(r.default_us - r.tuned_us, r.default_us), r.noise_us);
  html += fmt::format("<p class=\"note\">{}; {} candidates, {} measured{}</p>\n", html_text(r.context), r.n_candidates, measured.size(),
                      base == nullptr ? "" : fmt::format("; {} launches a step move {:.1f} MB", base->n_launches, base->bytes / 1e6));
  return html + charts_html(std::move(measured), base == nullptr ? r.default_us : base->step_us) + left_out_html(wrong, pruned);
}

std::string summary_html(const TuneReport& report) {
  std::string html = "<div class=\"scroll\"><table><tr><th>kernel</th><th>values</th><th>default us</th><th>tuned us</th><th>gain</th>"
                     "<th>candidates</th><th>not run</th></tr>\n";
  for (const TuneRecord& r : report.records)
    html += fmt::format("<tr><td>{}</td><td>{}</td><td>{:.2f}</td><td>{:.2f}</td><td>{:.2f} %</td><td>{}</td><td>{}</td></tr>\n", html_text(r.key),
                        html_text(changed_text(r.values, r.default_values)), r.default_us, r.tuned_us,
                        percent(r.default_us - r.tuned_us, r.default_us), r.n_candidates, r.n_pruned);
  return html + "</table></div>\n";
}

}  // namespace

std::string format_outcome(const TuneOutcome& outcome) {
  std::string text = "| kernel | values | default us | tuned us | gain | noise us | candidates | pruned unrun |\n"
                     "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  size_t n_candidates = 0, n_pruned = 0, n_wrong = 0;
  std::map<std::string, size_t> reasons;
  for (const KeyOutcome& key : outcome.keys) {
    text += row_text(key);
    if (key.state != KeyState::kDone) continue;
    n_candidates += key.key.candidates.size(), n_pruned += key.key.n_pruned(), n_wrong += key.n_wrong;
    for (const auto& [reason, n] : prune_reasons(key.key.candidates)) reasons[reason] += n;
  }
  text += '\n';
  for (const StepOutcome& step : outcome.steps) text += step_text(step);
  text += fmt::format("{} candidates swept, {} of them ({:.0f} %) pruned without running{}{}\n", n_candidates, n_pruned,
                      percent(static_cast<double>(n_pruned), static_cast<double>(n_candidates)), reasons.empty() ? "" : ": ", reasons_text(reasons));
  if (n_wrong != 0) text += fmt::format("{} candidates computed something else than the default and were left out\n", n_wrong);
  return text + fmt::format("{:.1f} s\n", outcome.wall_s);
}

std::string format_dry_run(const DeviceInfo& device, std::span<const TuneKey> keys) {
  std::string text = fmt::format("{} ({}): what a sweep would measure; nothing has run\n", device.name, device.target());
  size_t n_candidates = 0, n_pruned = 0;
  std::map<std::string, size_t> all_reasons;
  for (const TuneKey& key : keys) {
    n_candidates += key.candidates.size(), n_pruned += key.n_pruned();
    text += fmt::format("\n{}: {} launches a step, {:.1f} MB; {} candidates, {} pruned\n", key.name, key.n_launches, key.cost.bytes / 1e6,
                        key.candidates.size(), key.n_pruned());
    text += " regs  smem B  blocks/SM  blocks x threads  values\n";
    std::map<std::string, size_t> refused;   // never compiled: they only get counted
    for (const TuneCandidate& c : key.candidates) {
      if (c.is_pruned()) ++all_reasons[std::string(prune_reason_name(c.pruned))];
      if (c.resources.registers == 0 && c.is_pruned()) {
        ++refused[std::string(prune_reason_name(c.pruned))];
        continue;
      }
      const LaunchShape& s = c.spec.launch;
      text += fmt::format("{:>5}  {:>6}  {:>9}  {:>16}  {}{}\n", c.resources.registers, c.resources.static_smem_bytes + s.dynamic_smem_bytes,
                          c.blocks_per_sm, fmt::format("{} x {}", s.grid.x * s.grid.y * s.grid.z, s.block.x * s.block.y * s.block.z),
                          tune_text(c.values), c.is_default ? "  (default)" : c.is_pruned() ? fmt::format("  pruned: {}: {}", prune_reason_name(c.pruned), c.why) : "");
    }
    if (!refused.empty()) text += fmt::format("not compiled: {}\n", reasons_text(refused));
  }
  return text + fmt::format("\n{} kernels, {} candidates, {} ({:.0f} %) pruned without running{}{}; {} would be measured\n", keys.size(), n_candidates, n_pruned,
                            percent(static_cast<double>(n_pruned), static_cast<double>(n_candidates)), all_reasons.empty() ? "" : ": ",
                            reasons_text(all_reasons), n_candidates - n_pruned);
}

std::string html_text(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
    }
  return out;
}

std::string tune_report_html(const TuneReport& report) {
  std::string html = fmt::format("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" "
                                 "content=\"width=device-width, initial-scale=1\"/><title>sparkjit tune: {0} on {1}</title><style>{2}</style></head>\n"
                                 "<body><h1>{0} on {1}</h1>\n<p class=\"note\">driver {3}; bars: GB/s of the kernel's launches of one step, all layers back to "
                                 "back; the full width is the card's peak where it is known. Times: {4}.</p>\n",
                                 html_text(report.model), html_text(report.device), kStyle, html_text(report.driver),
                                 report.objective == "step" ? "the whole decode step with this candidate" : "the kernel's launches of one step");
  for (const StepOutcome& step : report.steps)
    if (step.is_measured) html += fmt::format("<p>{}</p>\n", html_text(step_text(step)));
  html += summary_html(report);
  for (const TuneRecord& r : report.records) html += kernel_html(r, report.figures);
  return html + "</body></html>\n";
}

}  // namespace sj
