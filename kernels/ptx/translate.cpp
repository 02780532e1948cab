// kernels/ptx/translate.cpp -- from text to instructions: names become places, labels become targets
#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "kernels/ptx/code.h"
#include "kernels/ptx/opcode.h"
#include "kernels/ptx/text.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

struct Register {
  Type type;
  Place place = 0;
};

/// A scope of names: the body's, or that of a block of inline assembly in it.
struct Scope {
  std::size_t parent = 0;
  std::map<std::string_view, Register> registers;
  struct Range {  // %r<37>: %r0 to %r36
    Type type;
    std::uint32_t count = 0;
    Place first = 0;
  };
  std::map<std::string_view, Range> ranges;
  std::map<std::string_view, std::uint32_t> labels;
};

Type register_type(std::string_view piece) { return piece == "pred" ? Type{'p', 1} : type_of(piece); }

const std::map<std::string_view, Special>& specials() {
  static const std::map<std::string_view, Special> names = {
      {"%tid.x", Special::tid_x},       {"%tid.y", Special::tid_y},        {"%tid.z", Special::tid_z},
      {"%ntid.x", Special::ntid_x},     {"%ntid.y", Special::ntid_y},      {"%ntid.z", Special::ntid_z},
      {"%ctaid.x", Special::ctaid_x},   {"%ctaid.y", Special::ctaid_y},    {"%ctaid.z", Special::ctaid_z},
      {"%nctaid.x", Special::nctaid_x}, {"%nctaid.y", Special::nctaid_y},  {"%nctaid.z", Special::nctaid_z},
      {"%laneid", Special::laneid},     {"%globaltimer_lo", Special::zero}};  // time stands still here
  return names;
}

std::size_t rounded_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

void trap(Warp& warp, const Instruction&) { warp.fail("a trap"); }

class Translator {
 public:
  Translator(Kernel& kernel, const Entry& entry, const ModuleText& module, const GlobalVariables& globals)
      : kernel_(kernel), globals_(globals), code_(std::make_shared<Code>()) {
    code_->files = module.files;
    code_->globals = &globals;
    read_parameters(entry);
    for (const Variable& variable : module.variables)
      if (variable.space == Variable::Space::shared) shared_variable(variable);
    const std::vector<Statement> body = read_body(entry);
    find_labels(body);
    scope_ = 0;
    next_scope_ = 1;
    for (const Statement& statement : body) take(statement);
    first_of_statement_.push_back(static_cast<std::uint32_t>(code_->instructions.size()));
    for (Instruction& i : code_->instructions)
      if (i.kind == Instruction::Kind::branch) i.target = first_of_statement_[i.target];
    kernel_.static_shared_bytes = shared_bytes_;
    place_dynamic_shared();
    code_->num_places = next_place_;
    code_->num_predicates = next_predicate_;
    code_->local_bytes = rounded_up(local_bytes_, 16);
    share_places(*code_);
    kernel_.code = code_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw PtxError(
        "ptx: " + kernel_.name + ": line " + std::to_string(statement_ != nullptr ? statement_->line : 0) + ": " +
        what + (statement_ != nullptr ? ": '" + std::string(statement_->text) + "'" : ""));
  }

  // ---- declarations ----

  void read_parameters(const Entry& entry) {
    for (const std::string_view text : split_operands(entry.parameters)) {
      const Variable variable = read_variable(text, entry.line);
      Parameter parameter;
      parameter.bytes = variable.bytes;
      parameter.alignment = variable.alignment;
      parameter.offset = rounded_up(kernel_.parameter_bytes, parameter.alignment);
      kernel_.parameter_bytes = parameter.offset + parameter.bytes;
      kernel_.parameters.push_back(parameter);
      symbols_[variable.name] = parameter.offset;
    }
    if (const std::size_t at = entry.attributes.find(".maxntid"); at != std::string_view::npos) {
      std::string_view numbers = entry.attributes.substr(at + 8);
      numbers = numbers.substr(0, numbers.find('.'));
      kernel_.most_threads = 1;
      for (const std::string_view number : split_operands(numbers))
        kernel_.most_threads *= static_cast<std::uint32_t>(integer(number).value_or(1));
    }
  }

  void shared_variable(const Variable& variable) {
    if (variable.is_extern || variable.bytes == 0) {
      dynamic_names_.push_back(variable.name);
      return;
    }
    shared_bytes_ = rounded_up(shared_bytes_, variable.alignment);
    symbols_[variable.name] = shared_bytes_;
    shared_bytes_ += variable.bytes;
  }
  /// The launch's dynamic shared memory begins behind the static arrays, all of which are known at the end only.
  void place_dynamic_shared() {
    code_->dynamic_shared_at = rounded_up(shared_bytes_, 128);
    for (Constant& constant : code_->constants)
      if (std::find(dynamic_places_.begin(), dynamic_places_.end(), constant.place) != dynamic_places_.end())
        constant.value += code_->dynamic_shared_at;
  }

  void declare_variable(const Statement& statement) {
    const Variable variable = read_variable(statement.text, statement.line);
    if (variable.space == Variable::Space::shared) {
      shared_variable(variable);
    } else if (variable.space == Variable::Space::local) {
      local_bytes_ = rounded_up(local_bytes_, variable.alignment);
      symbols_[variable.name] = local_bytes_;
      local_bytes_ += variable.bytes;
    } else {
      fail("a global variable inside of an entry");
    }
  }

  void declare_registers(std::string_view text) {
    text = trimmed(text.substr(4));  // .reg
    const std::size_t blank = text.find_first_of(" \t");
    const Type type = register_type(text.substr(1, blank - 1));
    if (type.bits == 0) fail("registers of an unknown type");
    for (const std::string_view name : split_operands(text.substr(blank))) {
      Scope& scope = scopes_[scope_];
      if (const std::size_t angle = name.find('<'); angle != std::string_view::npos) {
        const auto count =
            static_cast<std::uint32_t>(integer(name.substr(angle + 1, name.size() - angle - 2)).value_or(0));
        scope.ranges[name.substr(0, angle)] = {type, count, take_places(type, count)};
      } else {
        scope.registers[name] = {type, take_places(type, 1)};
      }
    }
  }
  Place take_places(Type type, std::uint32_t count) {
    if (type.kind == 'p') {
      const Place first = next_predicate_ | kPredicate;
      next_predicate_ += count;
      return first;
    }
    const std::uint32_t width = type.bits == 64 ? 2 : 1;
    if (width == 2 && next_place_ % 2 != 0) ++next_place_;
    const Place first = next_place_;
    next_place_ += count * width;
    code_->width_at.resize(next_place_);
    for (Place at = first; at < next_place_; at += width) code_->width_at[at] = static_cast<std::uint8_t>(width);
    return first;
  }

  // ---- names ----

  void find_labels(const std::vector<Statement>& body) {
    scopes_.push_back({});
    std::size_t scope = 0;
    std::uint32_t at = 0;
    for (const Statement& statement : body) {
      switch (statement.kind) {
        case Statement::Kind::open:
          scopes_.push_back({});
          scopes_.back().parent = scope;
          scope = scopes_.size() - 1;
          break;
        case Statement::Kind::close: scope = scopes_[scope].parent; break;
        case Statement::Kind::label: scopes_[scope].labels[statement.text] = at; break;
        case Statement::Kind::instruction: ++at; break;
        default: break;
      }
    }
  }

  template <class F>
  auto look_up(F f) const -> decltype(f(std::declval<const Scope&>())) {
    for (std::size_t scope = scope_;; scope = scopes_[scope].parent) {
      if (auto found = f(scopes_[scope])) return found;
      if (scope == 0) return {};
    }
  }
  std::optional<Register> register_named(std::string_view name) const {
    return look_up([&](const Scope& scope) -> std::optional<Register> {
      if (const auto found = scope.registers.find(name); found != scope.registers.end()) return found->second;
      const std::size_t digits = name.find_last_not_of("0123456789") + 1;
      const auto range = scope.ranges.find(name.substr(0, digits));
      if (digits == name.size() || range == scope.ranges.end()) return {};
      const auto number = static_cast<std::uint32_t>(integer(name.substr(digits)).value_or(0));
      if (number >= range->second.count) return {};
      const Type type = range->second.type;
      return Register{type, range->second.first + number * (type.bits == 64 ? 2 : 1)};
    });
  }

  // ---- numbers ----

  static std::optional<std::int64_t> integer(std::string_view text) {
    bool negative = false;
    if (!text.empty() && text.front() == '-') negative = true, text.remove_prefix(1);
    if (!text.empty() && text.back() == 'U') text.remove_suffix(1);
    int base = 10;
    if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) base = 16, text.remove_prefix(2);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return {};
    return static_cast<std::int64_t>(negative ? 0 - value : value);
  }
  /// The bits of an integer, of 0f3F800000 or 0d3FF0000000000000.
  static std::optional<std::uint64_t> number_bits(std::string_view text) {
    if (text.size() > 2 && text[0] == '0' && (text[1] == 'f' || text[1] == 'F' || text[1] == 'd' || text[1] == 'D')) {
      std::uint64_t bits = 0;
      const auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), bits, 16);
      if (error == std::errc{} && end == text.data() + text.size()) return bits;
    }
    if (const auto value = integer(text)) return static_cast<std::uint64_t>(*value);
    return {};
  }
  Place constant(std::uint64_t value, bool wide) {
    const auto [found, is_new] = constants_.try_emplace({value, wide}, 0);
    if (is_new) {
      found->second = take_places(Type{'b', wide ? 64 : 32}, 1);
      code_->constants.push_back({found->second, wide, value});
    }
    return found->second;
  }

  // ---- operands ----

  struct Operands {
    std::vector<Place> places;
    std::vector<std::int64_t> offsets;  // of addresses
    bool wide_address = false, negated = false;
  };

  /// `wide`: whether a number and a register have 64 bits here.
  void operand(Operands& out, std::string_view text, bool wide) {
    if (text.empty()) fail("an empty operand");
    if (text.front() == '{') {
      for (const std::string_view piece : split_operands(text.substr(1, text.size() - 2))) operand(out, piece, wide);
      return;
    }
    if (text.front() == '[') return address(out, text.substr(1, text.size() - 2));
    if (text.front() == '!') out.negated = true, text.remove_prefix(1);
    if (text == "_") return;
    if (const std::size_t bar = text.find('|'); bar != std::string_view::npos) {
      operand(out, trimmed(text.substr(0, bar)), wide);
      operand(out, trimmed(text.substr(bar + 1)), wide);
      return;
    }
    if (const auto found = register_named(text)) {
      out.places.push_back(
          found->type.kind != 'p' && (found->type.bits == 64) != wide ? other_width(*found, text, wide) : found->place);
      return;
    }
    if (const auto special = specials().find(text); special != specials().end()) {
      const Place place = take_places(Type{'u', 32}, 1);
      code_->specials.push_back({place, special->second});
      out.places.push_back(place);
      return;
    }
    if (const auto bits = number_bits(text)) {
      out.places.push_back(constant(*bits, wide));
      return;
    }
    out.places.push_back(symbol(text, wide));
  }
  /// Loads, stores and conversions of 32 bits and less may name registers of 64: a narrow one stands in, and an
  /// instruction more takes the low bits before or fills the high ones after.
  Place other_width(const Register& wide, std::string_view name, bool is_wide) {
    const Opcode& op = *opcode_;
    if (is_wide || wide.type.bits != 64 || (op.name != "cvt" && op.name != "ld" && op.name != "st"))
      fail("register " + std::string(name) + " has another width than the instruction");
    const bool loads = op.name == "ld";
    const Place narrow = take_places(Type{'b', 32}, 1);
    const Known known = known_conversion(Opcode(
        !loads                ? "cvt.u32.u64"
        : op.type.kind == 's' ? "cvt.s64.s32"
                              : "cvt.u64.u32"));
    Instruction more = *taken_;
    more.action = known.action;
    more.num_to = more.num_from = 1;
    more.to = keep({loads ? wide.place : narrow});
    more.from = keep({loads ? narrow : wide.place});
    (loads ? after_ : before_).push_back(more);
    return narrow;
  }
  Place symbol(std::string_view name, bool wide) {
    if (const auto found = symbols_.find(name); found != symbols_.end()) return constant(found->second, wide);
    if (const auto found = globals_.addresses.find(name); found != globals_.addresses.end()) {
      if (!wide) fail("an address of device memory in 32 bits");
      return constant(found->second, wide);
    }
    if (std::find(dynamic_names_.begin(), dynamic_names_.end(), name) == dynamic_names_.end())
      fail("unknown name " + std::string(name));
    const Place place = take_places(Type{'b', wide ? 64 : 32}, 1);
    code_->constants.push_back({place, wide, 0});
    dynamic_places_.push_back(place);
    return place;
  }
  /// [base], [base+4], [base+-4], and [map, {x, y}] of tensor copies.
  void address(Operands& out, std::string_view text) {
    const std::vector<std::string_view> pieces = split_operands(text);
    std::string_view base = pieces.front();
    std::int64_t offset = 0;
    if (const std::size_t plus = base.find('+'); plus != std::string_view::npos) {
      const auto number = integer(trimmed(base.substr(plus + 1)));
      if (!number) fail("an address that is not understood");
      offset = *number;
      base = trimmed(base.substr(0, plus));
    }
    const auto found = register_named(base);
    if (found) {
      out.places.push_back(found->place);
      if (out.offsets.empty()) out.wide_address = found->type.bits == 64;
    } else {
      out.places.push_back(symbol(base, true));
      if (out.offsets.empty()) out.wide_address = true;
    }
    out.offsets.push_back(offset);
    for (std::size_t k = 1; k < pieces.size(); ++k) operand(out, pieces[k], false);
  }

  // ---- instructions ----

  void take(const Statement& statement) {
    statement_ = &statement;
    switch (statement.kind) {
      case Statement::Kind::open: scope_ = next_scope_++; break;
      case Statement::Kind::close: scope_ = scopes_[scope_].parent; break;
      case Statement::Kind::registers: declare_registers(statement.text); break;
      case Statement::Kind::variable: declare_variable(statement); break;
      case Statement::Kind::label: break;
      case Statement::Kind::instruction: {
        first_of_statement_.push_back(static_cast<std::uint32_t>(code_->instructions.size()));
        const Instruction out = instruction(statement);
        code_->instructions.insert(code_->instructions.end(), before_.begin(), before_.end());
        code_->instructions.push_back(out);
        code_->instructions.insert(code_->instructions.end(), after_.begin(), after_.end());
        before_.clear();
        after_.clear();
        break;
      }
    }
    statement_ = nullptr;
  }

  Instruction instruction(const Statement& statement) {
    const std::size_t blank = std::min(statement.text.find_first_of(" \t\n"), statement.text.size());
    const Opcode op(statement.text.substr(0, blank));
    const std::vector<std::string_view> operands = split_operands(statement.text.substr(blank));
    Instruction out;
    out.line = statement.line;
    out.source_file = statement.source_file;
    out.source_line = statement.source_line;
    if (!statement.guard.empty()) {
      std::string_view name = statement.guard;
      out.guarded = true;
      if (name.front() == '!') out.guard_is_not = true, name.remove_prefix(1);
      const auto found = register_named(name);
      if (!found || found->type.kind != 'p') fail("a guard that is no predicate");
      out.guard = found->place;
    }
    if (control_flow(op, operands, out)) return out;
    opcode_ = &op;
    const Instruction plain = out;
    taken_ = &plain;
    const Known known = know(op);
    if (known.action == nullptr) fail("an instruction that this machine does not know");
    out.action = known.action;
    out.kind = known.kind;
    out.flags = known.flags;
    take_operands(out, op, operands);
    return out;
  }

  bool control_flow(const Opcode& op, const std::vector<std::string_view>& operands, Instruction& out) {
    if (op.name == "bra") {
      out.kind = Instruction::Kind::branch;
      const auto target = look_up([&](const Scope& scope) -> std::optional<std::uint32_t> {
        const auto found = scope.labels.find(operands.front());
        return found != scope.labels.end() ? std::optional(found->second) : std::nullopt;
      });
      if (!target) fail("an unknown label");
      out.target = *target;
      return true;
    }
    if (op.name == "ret" || op.name == "exit") {
      out.kind = Instruction::Kind::exit;
      return true;
    }
    if (op.name == "trap") {
      out.action = &trap;
      return true;
    }
    if (op.name == "bar" && op.has("sync") && !op.has("warp")) {
      if (operands.size() != 1 || operands.front() != "0") fail("barrier 0 of the whole block is known, no other");
      out.kind = Instruction::Kind::barrier;
      return true;
    }
    return false;
  }

  /// How many of an instruction's operands are destinations.
  static std::size_t num_destinations(const Opcode& op) {
    for (const std::string_view name : {"st", "cp", "fence", "membar", "bar"})
      if (op.name == name) return 0;
    if (op.name == "mbarrier") return op.has("try_wait") ? 1 : 0;
    if (op.name == "wgmma") return op.has("mma_async") ? 1 : 0;
    return 1;
  }
  /// Whether source k is of 64 bits.
  static bool source_is_wide(const Opcode& op, std::size_t k) {
    const bool shift = op.name == "shl" || op.name == "shr";
    if ((shift && k == 1) || (op.name == "bfi" && k >= 2)) return false;
    if (op.name == "mad" && op.has("wide") && k == 2) return op.type.bits == 32;
    if (op.name == "mbarrier" || op.name == "cp") return false;
    if (op.name == "wgmma") return op.has("mma_async") && k < 2;
    return op.type.bits == 64;
  }
  static bool destination_is_wide(const Opcode& op) {
    if (op.has("wide")) return op.type.bits == 32;
    return (op.name == "cvt" && !op.types.empty() ? op.types.front() : op.type).bits == 64;
  }

  void take_operands(Instruction& out, const Opcode& op, std::vector<std::string_view> operands) {
    if (op.name == "setmaxnreg") return;
    const std::size_t num_to = num_destinations(op);
    if (op.name == "mbarrier" && num_to == 0 && !operands.empty() && operands.front() == "_")
      operands.erase(operands.begin());
    if (operands.size() < num_to) fail("too few operands");
    Operands to, from;
    if (op.name == "mov" && operands.size() == 2 && (operands[0].front() == '{' || operands[1].front() == '{')) {
      const bool unpacks = operands[0].front() == '{';
      operand(to, operands[0], !unpacks && op.type.bits == 64);
      operand(from, operands[1], unpacks && op.type.bits == 64);
      out.action = packing(op.type, unpacks ? to.places.size() : from.places.size(), unpacks);
      if (out.action == nullptr) fail("a packing that this machine does not know");
    } else {
      for (std::size_t k = 0; k < operands.size(); ++k)
        if (k < num_to)
          operand(to, operands[k], destination_is_wide(op));
        else
          operand(from, operands[k], source_is_wide(op, k - num_to) && operands[k].front() != '{');
    }
    if (from.wide_address) out.flags |= kWideAddress;
    if (from.negated) {
      if (op.name != "setp") fail("a negated predicate");
      out.number = 1;
    }
    if (!from.offsets.empty()) out.number = from.offsets[0];
    if (from.offsets.size() > 1) out.second_number = from.offsets[1];
    out.moves = op.name == "mov" && to.places.size() == 1 && from.places.size() == 1 && op.type.kind != 'p';
    out.adds = op.name == "wgmma" && op.has("mma_async");
    if (op.has("bulk") && std::any_of(from.offsets.begin(), from.offsets.end(), [](auto o) { return o != 0; }))
      fail("offsets in the addresses of a tensor copy");
    out.to = keep(to.places);
    out.from = keep(from.places);
    out.num_to = static_cast<std::uint16_t>(to.places.size());
    out.num_from = static_cast<std::uint16_t>(from.places.size());
  }
  const Place* keep(const std::vector<Place>& places) {
    code_->operands.push_back(places);
    return code_->operands.back().data();
  }

  static Known know(const Opcode& op) {
    for (const auto look :
         {known_arithmetic, known_conversion, known_memory, known_asynchronous, known_collective, known_product})
      if (const Known known = look(op); known.action != nullptr) return known;
    return {};
  }

  Kernel& kernel_;
  const GlobalVariables& globals_;
  std::shared_ptr<Code> code_;
  std::vector<Scope> scopes_;
  std::size_t scope_ = 0, next_scope_ = 1;
  std::map<std::string_view, std::uint64_t> symbols_;  // parameters, shared and local variables: offsets
  std::vector<std::string_view> dynamic_names_;
  std::vector<Place> dynamic_places_;
  std::map<std::pair<std::uint64_t, bool>, Place> constants_;
  std::vector<std::uint32_t> first_of_statement_;  // instructions by statement; a branch names the statement first
  std::vector<Instruction> before_, after_;        // that an instruction brings with it
  std::size_t shared_bytes_ = 0, local_bytes_ = 0;
  std::uint32_t next_place_ = 0, next_predicate_ = 0;
  const Statement* statement_ = nullptr;
  const Opcode* opcode_ = nullptr;      // of the instruction whose operands are read
  const Instruction* taken_ = nullptr;  // its guard and lines
};

}  // namespace

Type type_of(std::string_view piece) {
  if (piece.size() < 2 || std::string_view("usbf").find(piece[0]) == std::string_view::npos) return {};
  for (const int bits : {8, 16, 32, 64})
    if (piece.substr(1) == std::to_string(bits)) return {piece[0], bits};
  return {};
}

Opcode::Opcode(std::string_view whole) : text(whole), pieces(split(whole, '.')) {
  name = pieces.front();
  pieces.erase(pieces.begin());
  for (const std::string_view piece : pieces) {
    const Type found = piece == "pred" ? Type{'p', 1} : type_of(piece);
    if (found.bits > 0) types.push_back(found);
  }
  if (!types.empty()) type = types.back();
}

bool Opcode::has(std::string_view piece) const {
  return std::find(pieces.begin(), pieces.end(), piece) != pieces.end();
}

void translate(Kernel& kernel, const Entry& entry, const ModuleText& module, const GlobalVariables& globals) {
  const Translator translator(kernel, entry, module, globals);
}

}  // namespace avid::kernels::ptx
