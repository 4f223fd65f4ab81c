// Pages that every browser reads: well-formed, self-contained, with text from outside escaped; and what tables say.
#include "tools/tune_report.h"

#include <gtest/gtest.h>

#include <cctype>
#include <string>
#include <vector>

namespace sj::tune_report_test {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// What keeps `html` from being well-formed XML behind its doctype: tags in pairs, quoted attributes, entities. Empty: nothing.
std::string malformed(const std::string& html) {
  std::vector<std::string> open;
  size_t at = html.find('>') + 1;
  if (!html.starts_with("<!DOCTYPE html>")) return "no doctype";
  while (at < html.size()) {
    if (html[at] == '&') {
      const size_t end = html.find(';', at);
      if (end == std::string::npos || end - at > 6) return "a bare & at " + html.substr(at, 20);
      at = end + 1;
      continue;
    }
    if (html[at] != '<') {
      if (html[at] == '>') return "a bare > before " + html.substr(at, 20);
      ++at;
      continue;
    }
    const bool is_end = html[at + 1] == '/';
    size_t p = at + 1 + (is_end ? 1 : 0);
    std::string name;
    while (std::isalnum(static_cast<unsigned char>(html[p])) != 0) name += html[p++];
    if (name.empty()) return "a bare < before " + html.substr(at, 20);
    while (html[p] == ' ') {   // attributes
      while (html[++p] != '=')
        if (p >= html.size() || html[p] == '>' || html[p] == '<') return "an attribute without a value in " + html.substr(at, 40);
      if (html[++p] != '"') return "an attribute without quotes in " + html.substr(at, 40);
      const size_t close = html.find('"', p + 1);
      if (html.substr(p, close - p).find('<') != std::string::npos) return "a < in an attribute";
      p = close + 1;
    }
    const bool is_empty_element = html[p] == '/';
    if (html[p + (is_empty_element ? 1 : 0)] != '>') return "an unfinished tag: " + html.substr(at, 40);
    at = p + (is_empty_element ? 2 : 1);
    if (is_end) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (!is_empty_element) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : open.back() + " is not closed";
}

const std::string kEvil = "</title><script>alert(\"1\")</script> & 'x'";

TuneFigures figures(int64_t rows, TuneVerdict verdict, double us) {
  TuneFigures f{.key = "decode_gemv: " + kEvil, .values = {{"kRows", rows}}, .verdict = verdict};
  f.n_launches = 48, f.bytes = 96e6, f.peak_gb_per_s = 4800;
  if (verdict == TuneVerdict::kPruned) f.reason = "spills", f.why = "8 bytes < 16 & more";
  if (verdict == TuneVerdict::kWrong) f.why = "value 3 is <nan>";
  if (us > 0) f.alone_us = us, f.step_us = 1000 + us, f.gain_us = 40 - us, f.noise_us = 0.3, f.rounds = 3;
  return f;
}

TuneReport report() {
  TuneReport r{.model = kEvil, .device = "card <1>", .driver = "13.0", .objective = "step", .records = {}, .steps = {}, .figures = {}};
  r.records.push_back({.key = "decode_gemv: " + kEvil, .device = "card <1>", .driver = "13.0", .arch = "sm_90", .values = {{"kRows", 16}},
                       .default_values = {{"kRows", 8}}, .default_us = 1040, .tuned_us = 1020, .noise_us = 0.3, .objective = "step",
                       .context = "m, 128 tokens", .date = "d", .n_candidates = 44, .n_pruned = 1});
  r.steps.push_back({.context = {0, 128, {64, 128}}, .comparison = {.base_us = 1040, .candidate_us = 1020, .gain_us = 20, .noise_us = 0.3}, .is_measured = true});
  r.figures = {figures(8, TuneVerdict::kDefault, 40), figures(16, TuneVerdict::kWinner, 20), figures(24, TuneVerdict::kWrong, 0),
               figures(32, TuneVerdict::kPruned, 0)};
  for (int64_t rows = 100; rows < 140; ++rows) r.figures.push_back(figures(rows, TuneVerdict::kMeasured, static_cast<double>(rows)));
  return r;
}

TEST(TuneReport, IsOneWellFormedPageWithoutOutsideResources) {
  const std::string html = tune_report_html(report());
  EXPECT_EQ(malformed(html), "");
  for (const char* outside : {"http", "src=", "href=", "url(", "@import", "<script"}) EXPECT_FALSE(has(html, outside)) << outside;
  EXPECT_TRUE(has(html, "name=\"viewport\"")) << "phones";
  EXPECT_TRUE(has(html, "&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39;"));
}

TEST(TuneReport, TheCheckOfWellFormednessFindsMistakes) {
  for (const char* broken : {"<!DOCTYPE html><p>", "<!DOCTYPE html><p></b>", "<!DOCTYPE html>a & b", "<!DOCTYPE html>a & b and so on;", "<!DOCTYPE html><p a=b></p>", "<p></p>",
                             "<!DOCTYPE html>a < b", "<!DOCTYPE html><p a></p>"})
    EXPECT_NE(malformed(broken), "") << broken;
  EXPECT_EQ(malformed("<!DOCTYPE html><p a=\"b\"><br/>&lt;</p>"), "");
}

TEST(TuneReport, ShowsCandidatesAgainstThePeakAndMarksDefaultAndWinner) {
  const std::string html = tune_report_html(report());
  EXPECT_TRUE(has(html, "<div class=\"c winner\"><div class=\"lab\"><span>kRows=16 <b>winner</b></span><span>4800 GB/s, 100 % of peak; 1020.00 us (-1.92 %"))
      << "96 MB in 20 us";
  EXPECT_TRUE(has(html, "kRows=8 <b>default</b></span><span>2400 GB/s, 50 % of peak; 1040.00 us</span>"));
  EXPECT_TRUE(has(html, "width:50.0%"));
  EXPECT_LT(html.find("<b>winner</b>"), html.find("<b>default</b>"));
  EXPECT_TRUE(has(html, "30 more")) << "42 measured, 12 stand open";
  EXPECT_TRUE(has(html, "1 not run: 1 spills"));
  EXPECT_TRUE(has(html, "8 bytes &lt; 16 &amp; more"));
  EXPECT_TRUE(has(html, "value 3 is &lt;nan&gt;"));
  EXPECT_TRUE(has(html, "step at 64, 128 tokens: 1040.00 us with defaults, 1020.00 us tuned: 1.92 %"));
}

TEST(TuneReport, AnEmptySweepIsStillAPage) {
  EXPECT_EQ(malformed(tune_report_html({})), "");
}

TEST(TuneReport, TheTableCountsWhatDidNotRun) {
  TuneOutcome outcome;
  KeyOutcome& key = outcome.keys.emplace_back();
  key.state = KeyState::kDone;
  key.record = report().records[0];
  key.key.name = "k";
  key.key.candidates.resize(4);
  key.key.candidates[1].pruned = PruneReason::kSpills;
  key.n_wrong = 1;
  outcome.keys.emplace_back().key.name = "later";
  const std::string text = format_outcome(outcome);
  EXPECT_TRUE(has(text, "| kRows=16 | 1040.00 | 1020.00 | 1.92 % | 0.30 | 44 | 1 |")) << text;
  EXPECT_TRUE(has(text, "| later | no time |")) << text;
  EXPECT_TRUE(has(text, "4 candidates swept, 1 of them (25 %) pruned without running: 1 spills")) << text;
  EXPECT_TRUE(has(text, "1 candidates computed something else")) << text;
}

}  // namespace
}  // namespace sj::tune_report_test
