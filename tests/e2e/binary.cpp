#include "tests/e2e/binary.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>


#include "tests/support/gguf_writer.h"

namespace sj::test {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe failed");
    read_end = ends[0];
    write_end = ends[1];
  }
};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

[[noreturn]] void become(const std::vector<std::string>& args, const RunOptions& options, const char* home_dir, int in, int out, int err) {
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  ::setenv("XDG_CACHE_HOME", home_dir, 1);
  ::setenv("XDG_CONFIG_HOME", home_dir, 1);
  for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
  constexpr uid_t kNobody = 65534;
  if (options.as_nobody && ::getuid() == 0 && (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) ::_exit(125);
  const std::string program = binary_path();
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  ::_exit(126);
}

// Appends what can be read now; false at the end of the stream.
bool drain(int fd, std::string& text) {
  char buffer[1 << 14];
  const ssize_t n_read = ::read(fd, buffer, sizeof buffer);
  if (n_read > 0) text.append(buffer, static_cast<size_t>(n_read));
  return n_read > 0;
}

}  // namespace

std::string binary_path() {
  const std::string chosen = variable("SPARKJIT_BINARY");
  if (!chosen.empty()) return chosen;
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path().parent_path() / "sparkjit").string();
}

Outcome run_sparkjit(const std::vector<std::string>& args, const RunOptions& options) {
  static const TempDir home;   // one a test program
  Pipe in, out, err;
  const Clock::time_point start = Clock::now();
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) become(args, options, home.path().c_str(), in.read_end, out.write_end, err.write_end);
  ::close(in.read_end);
  ::close(out.write_end);
  ::close(err.write_end);
  if (!options.input.empty() && ::write(in.write_end, options.input.data(), options.input.size()) < 0)
    throw std::runtime_error("can't write the child's input");
  ::close(in.write_end);

  Outcome outcome;
  const auto elapsed_s = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  bool is_interrupted = false;
  pollfd streams[2] = {{out.read_end, POLLIN, 0}, {err.read_end, POLLIN, 0}};
  while (streams[0].fd >= 0 || streams[1].fd >= 0) {
    ::poll(streams, 2, 100);
    if (streams[0].revents != 0 && !drain(streams[0].fd, outcome.out)) streams[0].fd = -1;
    if (streams[1].revents != 0 && !drain(streams[1].fd, outcome.err)) streams[1].fd = -1;
    if (!is_interrupted && options.interrupt_when && options.interrupt_when(outcome.out)) {
      is_interrupted = true;
      ::kill(child, SIGINT);
    }
    if (elapsed_s() > options.timeout_s) ::kill(child, SIGKILL);
  }
  ::close(out.read_end);
  ::close(err.read_end);
  int status = 0;
  ::waitpid(child, &status, 0);
  outcome.wall_s = elapsed_s();
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

bool has_gpu() {
  static const bool answer = [] {
    const Outcome outcome = run_sparkjit({"doctor", "--output", "json"});
    return outcome.exit_code == 0 && outcome.out.find("\"has_gpu\": true") != std::string::npos;
  }();
  return answer;
}

std::string goldens_dir() {
  std::string folder = variable("SPARKJIT_GOLDENS");
  if (folder.empty()) folder = SPARKJIT_SOURCE_DIR "/../shared/goldens";
  return std::filesystem::is_directory(folder) ? folder : "";
}

std::string find_test_model(const std::string& name) {
  const std::string folder = variable("SPARKJIT_TEST_MODELS");
  if (folder.empty()) return "";
  const std::string path = folder + "/" + name;
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace sj::test
