// kernels/ptx/text.h -- PTX as text: entries, variables, statements
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/ptx/machine.h"

namespace avid::kernels::ptx {

/// A piece of an entry's body, in the order of the text.
struct Statement {
  enum class Kind { instruction, label, open, close, registers, variable };
  Kind kind = Kind::instruction;
  std::string_view text;   // without guard and semicolon; a label's name
  std::string_view guard;  // "%p1" or "!%p1" of @%p1
  std::uint32_t line = 0;  // of the PTX
  std::uint32_t source_file = 0, source_line = 0;
};

/// A variable in shared, local or global memory.
struct Variable {
  enum class Space { shared, local, global };
  std::string_view name;
  Space space = Space::shared;
  std::size_t bytes = 0, alignment = 1;
  bool is_extern = false;             // the launch's dynamic shared memory
  std::vector<unsigned char> values;  // of a global one; empty: zeros
};

struct Entry {
  std::string_view name, parameters, attributes, body;
  std::uint32_t line = 0;  // where the body begins
};

struct ModuleText {
  std::string target;
  std::map<std::uint32_t, std::string> files;  // of .file
  std::vector<Entry> entries;
  std::vector<Variable> variables;  // outside of the entries
};

/// Throws PtxError with the line.
ModuleText read_module(std::string_view text);

/// The statements of a body. Throws PtxError with the line.
std::vector<Statement> read_body(const Entry& entry);

/// A declaration such as `.shared .align 16 .b8 name[64]`. Throws PtxError.
Variable read_variable(std::string_view declaration, std::uint32_t line);

/// `a, {b, c}, [d+4]` at its outer commas, without blanks around the pieces.
std::vector<std::string_view> split_operands(std::string_view text);

/// Pieces between `at`.
std::vector<std::string_view> split(std::string_view text, char at);

std::string_view trimmed(std::string_view text);

}  // namespace avid::kernels::ptx
