// tests/cli/server.h -- avid serve-denoiser in the background
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include <nlohmann/json.hpp>

#include "tests/doctest.h"

namespace avid::test {

/// Runs until it is stopped or goes out of scope.
class Server {
 public:
  explicit Server(const std::string& base, int port = 0, const std::string& device = "cpu") {
    int out[2];
    REQUIRE(pipe(out) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      if (dup2(out[1], STDOUT_FILENO) < 0) _exit(126);
      close(out[0]);
      const std::string text = std::to_string(port);
      execl(
          AVID_PROGRAM, "avid", "serve-denoiser", "--base", base.c_str(), "--port", text.c_str(), "--threads", "1",
          "--timesteps", "6", "--device", device.c_str(), "--json", nullptr);
      _exit(127);
    }
    close(out[1]);
    std::string line;
    char c;
    while (read(out[0], &c, 1) == 1 && c != '\n') line += c;
    close(out[0]);
    card = nlohmann::json::parse(line, nullptr, false);
    REQUIRE(card.is_object());
  }
  ~Server() {
    if (pid_ > 0) stop();
  }
  int stop() {
    kill(pid_, SIGTERM);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string url() const { return card["url"]; }
  nlohmann::json card;

 private:
  pid_t pid_ = -1;
};

}  // namespace avid::test
