// Lines for people on stderr, "# area: text", and a progress bar. Thread-safe; a line is written in one piece.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace sj {

enum class LogLevel : int { kQuiet = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

/// Lines above this level are dropped. Default kInfo.
void set_log_level(LogLevel level);
LogLevel log_level();
/// Where lines go instead of stderr (tests); null: stderr.
void set_log_sink(std::function<void(std::string_view line)> sink);

void log_line(LogLevel level, std::string_view area, std::string_view text);

template <class... Args>
void log_info(std::string_view area, fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() >= LogLevel::kInfo) log_line(LogLevel::kInfo, area, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(std::string_view area, fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() >= LogLevel::kWarning)
    log_line(LogLevel::kWarning, area, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_debug(std::string_view area, fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() >= LogLevel::kDebug) log_line(LogLevel::kDebug, area, fmt::format(format, std::forward<Args>(args)...));
}

/// "# area [=====>    ] 12/20 label" redrawn in place on stderr; draws nothing unless stderr is a terminal, the level is at
/// least kInfo and `enabled`. add() may be called from any thread. The destructor clears the line.
class ProgressBar {
 public:
  ProgressBar(std::string area, uint64_t n_total, bool enabled = true);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void add(uint64_t n_done, std::string_view label = {});

 private:
  void draw(std::string_view label);
  std::string area_;
  uint64_t n_total_;
  uint64_t n_done_ = 0;
  int64_t last_draw_us_ = 0;
  bool is_shown_;
};

}  // namespace sj
