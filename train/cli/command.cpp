// train/cli/command.cpp -- commands and options in terms of CLI11
#include "train/cli/command.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <regex>
#include <type_traits>

#include "tensor/device_name.h"
#include "tensor/error.h"
#include "train/config.h"

namespace avid::cli {
namespace {

/// Empty if `text` is a number that passes; otherwise what is wrong, as CLI11 wants it.
std::string is_number(const std::string& text, bool (*passes)(double), const std::string& which) {
  double value = 0;
  if (CLI::detail::lexical_cast(text, value) && std::isfinite(value) && passes(value)) return {};
  return "expected a number " + which + ", got " + text;
}

/// One line for a mistake on the command line: what is wrong, and where the help is.
std::string usage_line(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
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
  // CLI11 says "At Most 1 required but received 2" and "1 required INT missing".
  std::smatch found;
  if (std::regex_match(what, found, std::regex("(.*): At Most 1 required but received ([0-9]+)")))
    what = fmt::format("{}: expected once, got it {} times", found.str(1), found.str(2));
  else if (std::regex_match(what, found, std::regex("(.*): 1 required .* missing")))
    what = fmt::format("{}: its value is missing", found.str(1));
  std::replace(what.begin(), what.end(), '\n', ' ');
  return fmt::format("{}: {} | see {} --help", name, what, name);
}

struct RegisteredCommand {
  std::string name, description;
  std::function<void(Command*)> setup;
};

// Filled before main() begins, by the registrars of the commands' files.
std::vector<RegisteredCommand>& registered_commands() {
  static std::vector<RegisteredCommand> list;
  return list;
}

}  // namespace

CommandRegistrar::CommandRegistrar(std::string name, std::string description, std::function<void(Command*)> setup) {
  registered_commands().push_back({std::move(name), std::move(description), std::move(setup)});
}

Option* Option::type_name(const std::string& name) {
  option_->type_name(name);
  return this;
}

Option* Option::required() {
  option_->required();
  return this;
}

Option* Option::capture_default_str() {
  option_->capture_default_str();
  return this;
}

Option* Option::expected(int at_least, int at_most) {
  option_->expected(at_least, at_most);
  return this;
}

Option* Option::allow_extra_args(bool allow) {
  option_->allow_extra_args(allow);
  return this;
}

Option* Option::delimiter(char c) {
  option_->delimiter(c);
  return this;
}

Option* Option::excludes(Option* other) {
  option_->excludes(other->option_);
  return this;
}

Option* Option::needs(Option* other) {
  option_->needs(other->option_);
  return this;
}

Option* Option::positive() {
  option_->check(CLI::Validator(
      [](const std::string& text) {
        return is_number(
            text, [](double x) { return x > 0; }, "above 0");
      },
      "POSITIVE"));
  return this;
}

Option* Option::non_negative() {
  option_->check(CLI::Validator(
      [](const std::string& text) {
        return is_number(
            text, [](double x) { return x >= 0; }, "of at least 0");
      },
      "NONNEGATIVE"));
  return this;
}

Option* Option::range(std::int64_t from, std::int64_t to) {
  option_->check(CLI::Range(from, to));
  return this;
}

Option* Option::one_of(const std::vector<std::string>& names) {
  option_->check(CLI::IsMember(names));
  return this;
}

Option* Option::device_name() {
  option_->check(CLI::Validator(
      [](const std::string& text) {
        return is_device_name(text) ? std::string() : fmt::format("expected {}, got '{}'", kDeviceNames, text);
      },
      ""));
  return this;
}

bool Option::given() const { return option_->count() > 0; }

template <class T>
Option* Command::add_option(const std::string& names, T& value, const std::string& help) {
  CLI::Option* option = app_->add_option(names, value, help);
  // CLI11 reads integers with strtoll and strtoull, which take the nearest number they have for one that is too large,
  // and the largest one for -1. The checks have no name: the help keeps INT and UINT.
  if constexpr (std::is_unsigned_v<T>)
    option->check(CLI::Validator(
        [](const std::string& text) {
          return text.find('-') == std::string::npos ? "" : "expected a number of at least 0, got " + text;
        },
        ""));
  if constexpr (std::is_integral_v<T>)
    option->check(CLI::Validator(
        [](const std::string& text) {
          errno = 0;
          std::is_unsigned_v<T> ? static_cast<void>(std::strtoull(text.c_str(), nullptr, 10))
                                : static_cast<void>(std::strtoll(text.c_str(), nullptr, 10));
          return errno != ERANGE ? "" : "expected a number of 64 bits, got " + text;
        },
        ""));
  return &options_.emplace_back(option);
}
template Option* Command::add_option(const std::string&, std::string&, const std::string&);
template Option* Command::add_option(const std::string&, int&, const std::string&);
template Option* Command::add_option(const std::string&, std::int64_t&, const std::string&);
template Option* Command::add_option(const std::string&, std::uint64_t&, const std::string&);
template Option* Command::add_option(const std::string&, float&, const std::string&);
template Option* Command::add_option(const std::string&, double&, const std::string&);
template Option* Command::add_option(const std::string&, std::filesystem::path&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<std::filesystem::path>&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<std::int64_t>&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<int>&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<double>&, const std::string&);

Option* Command::add_option(
    const std::string& names, std::function<void(const std::string&)> take, const std::string& help) {
  return &options_.emplace_back(app_->add_option_function<std::string>(names, std::move(take), help));
}

Option* Command::add_flag(const std::string& names, std::function<void()> take, const std::string& help) {
  return &options_.emplace_back(app_->add_flag_callback(names, std::move(take), help));
}

Option* Command::add_flag(const std::string& names, bool& value, const std::string& help) {
  return &options_.emplace_back(app_->add_flag(names, value, help));
}

Command* Command::add_subcommand(const std::string& name, const std::string& description) {
  return &subcommands_.emplace_back(app_->add_subcommand(name, description));
}

bool Command::subcommand_given() const { return !app_->get_subcommands().empty(); }

void Command::hide() { app_->group(""); }

void Command::require_subcommand() { app_->require_subcommand(1); }

void Command::callback(std::function<void()> action) { app_->callback(std::move(action)); }

void Command::footer(const std::string& text) { app_->footer(text); }

void set_example(Command* command, const std::string& text) { command->footer("Example:\n  " + text); }

std::string cli11_version() { return CLI11_VERSION; }

void run_command_line(int argc, char** argv) {
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
  } catch (const CLI::ParseError& error) {
    // CLI11 uses exit code 0 for --help and --version, others for mistakes.
    if (error.get_exit_code() != 0) throw UsageError(usage_line(app, error, argc, argv));
    app.exit(error);
  }
}

}  // namespace avid::cli
