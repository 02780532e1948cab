// kernels/ptx/code.h -- a kernel's instructions, translated: functions and places of registers
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "kernels/ptx/machine.h"

namespace avid::kernels::ptx {

class Warp;
struct Instruction;
struct GlobalVariables;

/// Does the instruction for the lanes of warp.mask().
using Action = void (*)(Warp& warp, const Instruction& instruction);

/// Where a register's 32 lanes lie, in units of 32 words; one of 64 bits takes two units. Constants are registers that
/// nothing writes. Predicates have places of their own, with this bit set.
using Place = std::uint32_t;
inline constexpr Place kPredicate = Place{1} << 31;

struct Instruction {
  /// What the machine itself has to do about it, beside or instead of the action.
  enum class Kind : std::uint8_t {
    plain,       // the action, lane by lane
    branch,      // to `target`
    exit,        // the lanes end
    barrier,     // bar.sync: wait for the block
    collective,  // the action, once all lanes of the mask are here
    whole_warp,  // likewise, all 32 lanes
    look,        // mbarrier.try_wait: the action, then let others go on if it failed
  };
  Action action = nullptr;
  Kind kind = Kind::plain;
  bool guarded = false, guard_is_not = false;
  bool adds = false;            // its destinations are sources too
  bool moves = false;           // it is mov of one register
  std::uint32_t guard = 0;      // place of a predicate
  std::uint32_t target = 0;     // of a branch
  const Place* to = nullptr;    // destinations
  const Place* from = nullptr;  // sources
  std::uint16_t num_to = 0, num_from = 0;
  std::int64_t number = 0, second_number = 0;  // an address's offset, a count: by instruction
  std::uint32_t flags = 0;                     // by instruction
  std::uint32_t line = 0, source_file = 0, source_line = 0;
};

/// Values that a thread or a block has from the start.
enum class Special : std::uint8_t {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  zero
};

struct Constant {
  Place place = 0;
  bool wide = false;
  std::uint64_t value = 0;
};

struct SpecialValue {
  Place place = 0;
  Special value = Special::zero;
};

struct Code {
  std::vector<Instruction> instructions;
  std::deque<std::vector<Place>> operands;  // what to and from point into
  std::vector<std::uint8_t> width_at;       // units of the register that begins at a place; 0: none does
  std::vector<Constant> constants;
  std::vector<SpecialValue> specials;
  std::uint32_t num_places = 0, num_predicates = 0;
  std::size_t local_bytes = 0;        // of a thread
  std::size_t dynamic_shared_at = 0;  // where the launch's dynamic shared memory begins, behind the static arrays
  std::map<std::uint32_t, std::string> files;
  const GlobalVariables* globals = nullptr;  // of the module
};

/// In the flags of an access: its address register has 64 bits.
inline constexpr std::uint32_t kWideAddress = 0x100;

// Generic addresses: those of the host, except for these windows.
inline constexpr std::uint64_t kSharedWindow = std::uint64_t{1} << 48, kLocalWindow = std::uint64_t{2} << 48;
inline constexpr std::uint64_t kParameterWindow = std::uint64_t{3} << 48, kWindowMask = std::uint64_t{0xffff} << 48;

struct ModuleText;
struct Entry;

/// Where a module's variables outside of its entries lie.
struct GlobalVariables {
  std::map<std::string_view, std::uint64_t> addresses;  // by name
  std::vector<std::pair<const unsigned char*, std::size_t>> memory;
};

/// Translates an entry into kernel.code, and finds its parameters and shared memory. The code refers to `globals`.
/// Throws PtxError.
void translate(Kernel& kernel, const Entry& entry, const ModuleText& module, const GlobalVariables& globals);

/// Gives registers that are never in use at once the same places: a kernel names thousands and uses a few hundred.
void share_places(Code& code);

}  // namespace avid::kernels::ptx
