// tensor/error.h -- the typed errors a user can meet, and the checks that throw them
//
// Form of every message:  where: what: expected X, got Y | what to do
// The program prints it after "error: " on one line of stderr and exits with 1 (2 for UsageError).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace avid {

/// Base of everything this project throws on purpose. what() is one line without a trailing newline.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

// clang-format off
/// A tensor has another shape than the op needs.
class ShapeError : public Error { using Error::Error; };
/// A tensor has another element type than the op needs.
class DTypeError : public Error { using Error::Error; };
/// A device is missing, or tensors live on different devices.
class DeviceError : public Error { using Error::Error; };
/// A file is missing, truncated, malformed, or cannot be written (disk full, permissions).
class FileError : public Error { using Error::Error; };
/// A configuration key is unknown, contradictory or out of range.
class ConfigError : public Error { using Error::Error; };
/// Wrong command-line usage; the program exits with 2.
class UsageError : public Error { using Error::Error; };
/// The graph was used against its rules (freed twice, saved tensor changed in place).
class GraphError : public Error { using Error::Error; };
/// Memory could not be had; the message says how much was asked for and by whom.
class OutOfMemoryError : public Error { using Error::Error; };
// clang-format on
/// The user asked to stop (Ctrl-C, SIGTERM); carries the way to go on.
class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& message, int signal_number = 2)
      : Error(message), signal_number_(signal_number) {}
  /// 130 for Ctrl-C, 143 for SIGTERM: what a shell reports for the signal.
  int exit_code() const { return 128 + signal_number_; }

 private:
  int signal_number_;
};

/// Throws E with a formatted message: fail<ShapeError>("conv3d: x: expected rank 5, got {}", shape).
template <class E = Error, class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

/// fail<E>(...) unless `condition`; the text is built only on failure.
template <class E = Error, class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw E(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace avid
