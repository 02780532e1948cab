// tests/in_child.h -- runs a piece of a test in a process of its own: it may break the device, or die
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "tests/doctest.h"

namespace avid::test {

struct Outcome {
  int result = -1;   ///< what the piece returned; -1 when it did not
  int signal = 0;    ///< that ended it
  std::string text;  ///< what it wrote to stderr
};

inline Outcome in_child(const std::function<int()>& piece) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);
    for (const int signal : {SIGSEGV, SIGABRT}) std::signal(signal, SIG_DFL);  // not the parent's handlers
    const int result = piece();
    std::fprintf(stderr, "RESULT %d\n", result);
    std::fflush(nullptr);
    _exit(0);
  }
  close(ends[1]);
  Outcome outcome;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    outcome.text.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (const std::size_t at = outcome.text.rfind("RESULT "); at != std::string::npos) {
    outcome.result = std::atoi(outcome.text.c_str() + at + 7);
    outcome.text.erase(at);
  }
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  return outcome;
}

}  // namespace avid::test
