// A folder of its own for one test, removed afterwards; and the log lines that a test caused.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "jit/base/log.h"

namespace sj::test {

class TempFolder {
 public:
  explicit TempFolder(const std::string& parent = "/tmp") : path_(parent + "/sparkjit-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("can't make a folder in " + parent);
  }
  ~TempFolder() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Collects log lines instead of stderr while it lives. One at a time.
class LogCapture {
 public:
  LogCapture() {
    set_log_sink([this](std::string_view line) {
      const std::lock_guard lock(mutex_);
      lines_.emplace_back(line);
    });
  }
  ~LogCapture() { set_log_sink(nullptr); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  std::vector<std::string> lines() const {
    const std::lock_guard lock(mutex_);
    return lines_;
  }
  /// Lines that contain `part`.
  size_t n_with(std::string_view part) const {
    size_t n = 0;
    for (const std::string& line : lines()) n += line.find(part) != std::string::npos ? 1 : 0;
    return n;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace sj::test
