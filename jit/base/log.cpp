#include "jit/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <utility>

namespace sj {
namespace {

std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};

/// Everything that goes to stderr passes here, so that a log line never lands inside a progress bar.
struct Terminal {
  std::mutex mutex;
  std::function<void(std::string_view)> sink;
  bool has_bar = false;  ///< the cursor's line holds a progress bar
};

Terminal& terminal() {
  static Terminal* const instance = new Terminal;  // outlives every destructor that logs
  return *instance;
}

void write_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void set_log_level(LogLevel level) { g_level = static_cast<int>(level); }
LogLevel log_level() { return static_cast<LogLevel>(g_level.load()); }

void set_log_sink(std::function<void(std::string_view line)> sink) {
  const std::lock_guard lock(terminal().mutex);
  terminal().sink = std::move(sink);
}

void log_line(LogLevel level, std::string_view area, std::string_view text) {
  if (log_level() < level) return;
  const std::string line = fmt::format("# {}: {}{}", area, level == LogLevel::kWarning ? "warning: " : "", text);
  const std::lock_guard lock(terminal().mutex);
  if (terminal().sink) {
    terminal().sink(line);
    return;
  }
  write_stderr(fmt::format("{}{}\n", terminal().has_bar ? "\r\x1b[K" : "", line));
  terminal().has_bar = false;
}

ProgressBar::ProgressBar(std::string area, uint64_t n_total, bool enabled)
    : area_(std::move(area)), n_total_(n_total),
      is_shown_(enabled && n_total > 0 && log_level() >= LogLevel::kInfo && ::isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  const std::lock_guard lock(terminal().mutex);
  if (!is_shown_ || !terminal().has_bar) return;
  write_stderr("\r\x1b[K");
  terminal().has_bar = false;
}

void ProgressBar::add(uint64_t n_done, std::string_view label) {
  if (!is_shown_) return;
  const std::lock_guard lock(terminal().mutex);
  n_done_ = std::min(n_total_, n_done_ + n_done);
  constexpr int64_t kRedrawUs = 50'000;
  const int64_t now = now_us();
  if (n_done_ < n_total_ && now - last_draw_us_ < kRedrawUs) return;
  last_draw_us_ = now;
  draw(label);
}

void ProgressBar::draw(std::string_view label) {
  constexpr uint64_t kWidth = 30;
  const uint64_t filled = n_done_ * kWidth / n_total_;
  const std::string bar = std::string(filled, '=') + (filled < kWidth ? ">" : "") +
                          std::string(filled < kWidth ? kWidth - filled - 1 : 0, ' ');
  write_stderr(fmt::format("\r\x1b[K# {} [{}] {}/{} {}", area_, bar, n_done_, n_total_, label.substr(0, 50)));
  terminal().has_bar = true;
}

}  // namespace sj
