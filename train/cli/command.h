// train/cli/command.h -- how a command joins the program, and how it declares its options
//
// Each command is one file train/cli/cmd_<name>.cpp that ends in a static CommandRegistrar. The set-up function
// declares options and stores the action with callback(): see cmd_info.cpp for the smallest one.
// Rules: results on stdout, everything else on stderr; --json prints one JSON value; throw avid::Error for failures.
//
// Command and Option are the part of CLI11 that the commands use. CLI11's own header takes longer to compile than any
// command does, so only command.cpp reads it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace avid::cli {

/// One option of a command. Every function returns this, so that calls can be chained.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  Option* type_name(const std::string& name);  ///< what the help calls the value: FILE, DIR
  Option* required();
  Option* capture_default_str();                ///< the help shows the value that the variable has now
  Option* expected(int at_least, int at_most);  ///< how many values; for vectors
  Option* allow_extra_args(bool allow = true);  ///< whether values may follow one another without repeating the name
  Option* delimiter(char c);                    ///< several values in one word
  Option* excludes(Option* other);
  Option* needs(Option* other);
  // What the value must satisfy; anything else is a usage error that says so.
  Option* positive();
  Option* non_negative();
  Option* range(std::int64_t from, std::int64_t to);  ///< both ends belong to it
  Option* one_of(const std::vector<std::string>& names);
  Option* device_name();  ///< a word that Device::parse can read; whether there is such a device is for it to say

  bool given() const;  ///< was it on the command line?

 private:
  CLI::Option* option_;
};

/// A command or a command of a command, while its options are declared.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  /// `names`: "--name", "-n,--name", or "name" for a positional one. The variable must live as long as the program runs
  /// the command. T: std::string, std::int64_t, std::uint64_t, int, float, double, std::filesystem::path, or a vector.
  template <class T>
  Option* add_option(const std::string& names, T& value, const std::string& help = {});
  Option* add_option(const std::string& names, std::function<void(const std::string&)> take, const std::string& help);
  Option* add_flag(const std::string& names, bool& value, const std::string& help);
  Option* add_flag(const std::string& names, std::function<void()> take, const std::string& help);
  Command* add_subcommand(const std::string& name, const std::string& description);
  bool subcommand_given() const;
  void require_subcommand();  ///< the command alone is a usage error
  void callback(std::function<void()> action);
  void hide();                           ///< not in the list of commands
  void footer(const std::string& text);  ///< the end of the help

 private:
  CLI::App* app_;
  std::deque<Option> options_;  // deques: what was handed out stays where it is
  std::deque<Command> subcommands_;
};

struct CommandRegistrar {
  /// `setup` gets the fresh command; it must call command->callback([...] { work }).
  CommandRegistrar(std::string name, std::string description, std::function<void(Command*)> setup);
};

/// Adds "Example:\n  text" to the help of a command; every command has one.
void set_example(Command* command, const std::string& text);

std::string cli11_version();

/// Finds the command and runs it, or prints the help or version that was asked for. UsageError: a mistake in the words,
/// with where the help is. All else is what the command throws.
void run_command_line(int argc, char** argv);

}  // namespace avid::cli
