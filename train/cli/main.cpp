// train/cli/main.cpp -- the program: runs the command, turns errors into one line and an exit code
//
// Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130/143 stopped by Ctrl-C / SIGTERM after saving.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <new>
#include <string>

#include "tensor/error.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

int report(const std::string& message, int exit_code) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return exit_code;
}

/// Ctrl-C or SIGTERM while a command has nothing of its own to save (train and collect have): files appear whole or
/// not at all, so leaving at once loses nothing.
void leave_at_once(int signal_number) {
  constexpr char kText[] =
      "stopped: files finished so far are whole, nothing else was written | run the command again\n";
  if (write(STDERR_FILENO, kText, sizeof(kText) - 1) < 0) _exit(1);
  _exit(128 + signal_number);
}

int run(int argc, char** argv) {
  try {
    run_command_line(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
    return report("stdout: the results could not be written completely | make room, or write elsewhere", 1);
  } catch (const UsageError& error) {
    return report(error.what(), 2);
  } catch (const Interrupted& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    return report("host memory: could not get enough | use a smaller batch or model, or more accumulation", 1);
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}

}  // namespace

}  // namespace avid::cli

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit then fails the write, which is reported, and does not end us
  std::signal(SIGINT, avid::cli::leave_at_once);
  std::signal(SIGTERM, avid::cli::leave_at_once);
  return avid::cli::run(argc, argv);
}
