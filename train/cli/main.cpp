// train/cli/main.cpp -- the program: finds the command, runs it, turns errors into one line and an exit code
//
// Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130/143 stopped by Ctrl-C / SIGTERM after saving.
#include <CLI/CLI.hpp>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>
#include <vector>

#include "tensor/error.h"
#include "train/cli/command.h"
#include "train/config.h"

namespace avid::cli {
namespace {

int report(const std::string& message, int exit_code) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return exit_code;
}

/// One line for a mistake on the command line: what is wrong, and where the help is.
int report_usage(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  std::string what = error.what(), name = "avid";
  const CLI::App* deepest = &app;
  while (!deepest->get_subcommands().empty()) {
    deepest = deepest->get_subcommands().front();
    name += " " + deepest->get_name();
  }
  if (!deepest->get_subcommands({}).empty()) {
    std::vector<std::string> known;
    for (const CLI::App* command : deepest->get_subcommands({}))
      if (!command->get_group().empty()) known.push_back(command->get_name());  // hidden ones have no group
    // The first word after the commands that were understood is the one that was not.
    const int at = static_cast<int>(std::count(name.begin(), name.end(), ' ')) + 1;
    if (at < argc && argv[at][0] != '-') {
      const std::string nearest = train::nearest_name(argv[at], known);
      what = fmt::format(
          "unknown command '{}'{}", argv[at], nearest.empty() ? "" : fmt::format(", did you mean {}?", nearest));
    } else if (at >= argc) {
      what = fmt::format("expected a command: {}", fmt::join(known, ", "));
    }
  }
  std::replace(what.begin(), what.end(), '\n', ' ');
  return report(fmt::format("{}: {} | see {} --help", name, what, name), 2);
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
  CLI::App app{"avid: train, sample and score action-conditioned video world models", "avid"};
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("avid ") + AVID_VERSION);
  app.footer(
      "Each command explains itself: avid COMMAND --help\nExample:\n  avid inspect data/samples/coinrun32-heldout.h5");
  auto& list = registered_commands();
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  std::deque<Command> commands;
  for (const RegisteredCommand& command : list) {
    command.setup(&commands.emplace_back(app.add_subcommand(command.name, command.description)));
  }
  try {
    app.parse(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
    return report("stdout: the results could not be written completely | make room, or write elsewhere", 1);
  } catch (const CLI::ParseError& error) {
    // CLI11 uses exit code 0 for --help and --version, others for mistakes; ours is always 2.
    if (error.get_exit_code() == 0) return app.exit(error);
    return report_usage(app, error, argc, argv);
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
  std::signal(
      SIGXFSZ, SIG_IGN);  // a file-size limit then fails the write, which is reported, instead of ending the program
  std::signal(SIGINT, avid::cli::leave_at_once);
  std::signal(SIGTERM, avid::cli::leave_at_once);
  return avid::cli::run(argc, argv);
}
