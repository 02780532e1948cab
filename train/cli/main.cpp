// train/cli/main.cpp -- the program: finds the command, runs it, turns errors into one line and an exit code
//
// Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130/143 stopped by Ctrl-C / SIGTERM after saving.
#include <csignal>
#include <cstdio>
#include <new>
#include <vector>

#include "tensor/error.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

struct Command {
  std::string name, description;
  std::function<void(CLI::App*)> setup;
};

std::vector<Command>& commands() {
  static std::vector<Command> list;
  return list;
}

int report(const char* message, int exit_code) {
  std::fprintf(stderr, "error: %s\n", message);
  return exit_code;
}

int run(int argc, char** argv) {
  CLI::App app{"avid: train, sample and score action-conditioned video world models", "avid"};
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("avid ") + AVID_VERSION);
  app.footer("Each command explains itself: avid COMMAND --help");
  auto& list = commands();
  std::sort(list.begin(), list.end(), [](const Command& a, const Command& b) { return a.name < b.name; });
  for (const Command& command : list) command.setup(app.add_subcommand(command.name, command.description));
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    // CLI11 uses exit code 0 for --help and --version, others for mistakes; ours is always 2.
    return app.exit(error) == 0 ? 0 : 2;
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

CommandRegistrar::CommandRegistrar(std::string name, std::string description, std::function<void(CLI::App*)> setup) {
  commands().push_back({std::move(name), std::move(description), std::move(setup)});
}

void set_example(CLI::App* command, const std::string& text) { command->footer("Example:\n  " + text); }

}  // namespace avid::cli

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit then fails the write, which is reported, instead of ending the program
  return avid::cli::run(argc, argv);
}
