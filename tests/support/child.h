// A part of a test that runs in a process of its own, because it dies, gives up rights or is killed.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace sj::test {

/// Exit code of `body` in a child process; 1000 + signal when one ended it.
inline int run_in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace sj::test
