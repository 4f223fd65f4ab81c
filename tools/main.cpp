// The sparkjit binary: everything is in run_cli; here errors become one line on stderr and an exit code.
#include <chrono>
#include <cstdio>
#include <exception>
#include <new>

#include "jit/base/error.h"
#include "models/mapped_file.h"
#include "tools/cli.h"

namespace {

int report(const char* message, int exit_code) {
  std::fflush(stdout);
  std::fprintf(stderr, "sparkjit: error: %s\n", message);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  const auto process_start = std::chrono::steady_clock::now();
  sj::guard_mapped_files();   // a model file cut short while mapped ends in a message, not in a bare signal
  try {
    return sj::run_cli(argc, argv, process_start);
  } catch (const sj::Error& error) {
    return report(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return report("out of host memory", static_cast<int>(sj::ErrorKind::kUnsupported));
  } catch (const std::exception& error) {
    return report(error.what(), static_cast<int>(sj::ErrorKind::kInternal));
  }
}
