// Runs the built sparkjit binary as a user does, and tells what it printed and how it ended.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace sj::test {

struct Outcome {
  int exit_code = -1;      ///< 128 + signal when a signal ended it
  std::string out, err;
  double wall_s = 0;
};

struct RunOptions {
  std::string input;                                           ///< becomes standard input
  std::vector<std::pair<std::string, std::string>> environment;   ///< variables on top of the test's own
  bool as_nobody = false;                                      ///< when root runs the test, the binary runs as "nobody"
  std::function<bool(const std::string& out_so_far)> interrupt_when;  ///< sends SIGINT once, when it first returns true
  double timeout_s = 240;                                      ///< then SIGKILL
};

/// The binary two folders above the test's own, or $SPARKJIT_BINARY.
std::string binary_path();
/// Arguments without the program's name. Cache and options file are looked for in a folder of the test's own.
Outcome run_sparkjit(const std::vector<std::string>& args, const RunOptions& options = {});
/// True when `sparkjit doctor` finds a usable GPU; asked once.
bool has_gpu();

/// Folder with the golden files, from $SPARKJIT_GOLDENS or beside the source tree; empty when there is none.
std::string goldens_dir();
/// $SPARKJIT_TEST_MODELS/`name`; empty when the variable is unset or the file is missing.
std::string find_test_model(const std::string& name);

}  // namespace sj::test
