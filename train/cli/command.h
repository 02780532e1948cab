// train/cli/command.h -- how a command joins the program
//
// Each command is one file train/cli/cmd_<name>.cpp that ends in a static CommandRegistrar. The set-up function
// declares options on its CLI11 subcommand and stores the action with run(): see cmd_info.cpp for the smallest one.
// Rules: results on stdout, everything else on stderr; --json prints one JSON value; throw avid::Error for failures.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>

namespace avid::cli {

struct CommandRegistrar {
  /// `setup` gets the fresh subcommand; it must call subcommand->callback([...] { work }).
  CommandRegistrar(std::string name, std::string description, std::function<void(CLI::App*)> setup);
};

/// Adds "Example:\n  text" to the help of a command; every command has one.
void set_example(CLI::App* command, const std::string& text);

}  // namespace avid::cli
