// kernels/ptx/opcode.h -- an instruction's name in pieces, and the tables of what its pieces mean
#pragma once

#include <string_view>
#include <vector>

#include "kernels/ptx/code.h"

namespace avid::kernels::ptx {

/// u, s, b: integers and bits of 8 to 64; f: floats; p: a predicate. 0 bits: none.
struct Type {
  char kind = ' ';
  int bits = 0;
  bool operator==(const Type&) const = default;
};

/// "u32" and so on; no type: 0 bits.
Type type_of(std::string_view piece);

/// "setp.gt.and.u32": name "setp", pieces "gt", "and", "u32", type the last of them that is one.
struct Opcode {
  explicit Opcode(std::string_view text);
  bool has(std::string_view piece) const;
  std::string_view text, name;
  std::vector<std::string_view> pieces;
  Type type;                // the last type
  std::vector<Type> types;  // all, in order
};

/// The action of instructions that order or hint, and change nothing here.
inline void nothing(Warp&, const Instruction&) {}

/// An instruction's action, kind, and flags that follow from its name; action is nullptr where the opcode is none of
/// the file's.
struct Known {
  Action action = nullptr;
  Instruction::Kind kind = Instruction::Kind::plain;
  std::uint32_t flags = 0;
};
Known known_arithmetic(const Opcode& op);  // arithmetic.cpp, conversions.cpp
Known known_conversion(const Opcode& op);
Known known_memory(const Opcode& op);        // memory.cpp
Known known_asynchronous(const Opcode& op);  // asynchronous.cpp: cp.async, mbarrier, tensor copies, fences
Known known_collective(const Opcode& op);    // collectives.cpp: shuffles, votes, ldmatrix, movmatrix
/// mov of a register of type `whole` from or to `parts` registers; nullptr when not known.
Action packing(Type whole, std::size_t parts, bool unpacks);  // conversions.cpp
Known known_product(const Opcode& op);                        // products.cpp: mma, wgmma

}  // namespace avid::kernels::ptx
