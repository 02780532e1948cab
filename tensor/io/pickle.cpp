// tensor/io/pickle.cpp -- the stack machine and its allow-list
//
// Source: the opcode table of CPython's Lib/pickletools.py. Deviations: no opcode of protocols 0 and 1 that is spelled
// as text, no extension registry, no out-of-band buffers; INST, OBJ and NEWOBJ_EX are refused.
#include "tensor/io/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "tensor/io/atomic_file.h"

namespace avid {
namespace {

using Kind = PickleValue::Kind;

// Every name a pickle may ask for. Those that are called are handled in Machine::call.
// clang-format off
constexpr std::string_view kAllowed[] = {
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
    "builtins.set", "builtins.frozenset", "builtins.dict", "builtins.list", "builtins.int", "builtins.float",
    "__builtin__.set", "__builtin__.frozenset", "__builtin__.dict", "__builtin__.list", "__builtin__.int",
    "__builtin__.float", "_codecs.encode",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "torch.Size", "torch.device",
    "torch.DoubleStorage", "torch.FloatStorage", "torch.HalfStorage", "torch.BFloat16Storage", "torch.LongStorage",
    "torch.IntStorage", "torch.ShortStorage", "torch.CharStorage", "torch.ByteStorage", "torch.BoolStorage",
    "torch.ComplexFloatStorage", "torch.ComplexDoubleStorage",
    "torch.jit._pickle.build_intlist", "torch.jit._pickle.build_doublelist", "torch.jit._pickle.build_boollist",
    "torch.jit._pickle.build_tensorlist", "torch.jit._pickle.restore_type_tag",
    "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.int64", "torch.int32", "torch.int16",
    "torch.int8", "torch.uint8", "torch.bool"};
// NumPy's before and since version 2; numpy_pickle.cpp knows what they mean.
constexpr std::string_view kAllowedNumpy[] = {
    "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"};
// clang-format on

// The class of a TorchScript module: its objects are attributes and nothing else.
bool is_script_class(std::string_view name) { return name.starts_with("__torch__."); }

bool is_numpy(std::string_view name) {
  return std::find(std::begin(kAllowedNumpy), std::end(kAllowedNumpy), name) != std::end(kAllowedNumpy);
}

bool is_allowed(std::string_view name, PickleDialect dialect) {
  return is_script_class(name) || (dialect == PickleDialect::numpy && is_numpy(name)) ||
         std::find(std::begin(kAllowed), std::end(kAllowed), name) != std::end(kAllowed);
}

class Machine {
 public:
  Machine(
      const std::filesystem::path& path, std::span<const std::byte> bytes, UnknownObjects unknown,
      std::uint64_t max_values, PickleDialect dialect)
      : path_(path), bytes_(bytes), unknown_(unknown), max_values_(max_values), dialect_(dialect) {}

  Pickle run() {
    while (!stopped_) step();
    check_file(
        stack_.size() == 1 && marks_.empty(), path_,
        "pickle: {} values left on the stack at its end | the file is damaged", stack_.size());
    result_.root = stack_.back();
    result_.num_bytes = at_;
    return std::move(result_);
  }

 private:
  using Value = PickleValue*;

  // ---- input ----
  std::span<const std::byte> take(std::uint64_t count) {
    check_file(
        count <= bytes_.size() - at_, path_,
        "pickle: {} bytes wanted at byte {} of {} | the file is truncated or damaged", count, at_, bytes_.size());
    const auto part = bytes_.subspan(at_, count);
    at_ += count;
    return part;
  }
  template <class Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof(Number)).data(), sizeof(Number));
    return value;
  }
  std::string characters(std::uint64_t count) {
    const auto part = take(count);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  std::string line() {
    const auto rest = bytes_.subspan(at_);
    const auto end = std::find(rest.begin(), rest.end(), std::byte{'\n'});
    check_file(
        end != rest.end(), path_, "pickle: a name without an end at byte {} | the file is truncated or damaged", at_);
    std::string text = characters(static_cast<std::uint64_t>(end - rest.begin()));
    take(1);
    return text;
  }

  // ---- values and stack ----
  [[noreturn]] void damaged(const char* what) const {
    fail_file(path_, "pickle: {} at byte {} | the file is damaged", what, at_);
  }

  Value make(Kind kind) {
    check_file(
        result_.values.size() < max_values_, path_,
        "pickle: more than {} values in a file of this size | damaged, or made to exhaust memory", max_values_);
    result_.values.push_back(std::make_unique<PickleValue>());
    result_.values.back()->kind = kind;
    return result_.values.back().get();
  }
  Value make_text(Kind kind, std::string text) {
    const Value v = make(kind);
    v->text = std::move(text);
    return v;
  }
  Value make_integer(std::int64_t number) {
    const Value v = make(Kind::integer);
    v->integer = number;
    return v;
  }
  Value make_boolean(bool value) {
    const Value v = make(Kind::boolean);
    v->boolean = value;
    return v;
  }
  void push(Value v) { stack_.push_back(v); }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Value pop() {
    if (stack_.size() <= floor()) damaged("the stack is empty");
    const Value v = stack_.back();
    stack_.pop_back();
    return v;
  }
  Value top() {
    if (stack_.size() <= floor()) damaged("the stack is empty");
    return stack_.back();
  }
  std::vector<Value> pop_to_mark() {
    if (marks_.empty()) damaged("no mark");
    std::vector<Value> part(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return part;
  }
  void push_tuple(const std::vector<Value>& items) {
    const Value v = make(Kind::tuple);
    v->items.assign(items.begin(), items.end());
    push(v);
  }
  void push_tuple(std::size_t count) {
    std::vector<Value> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    push_tuple(items);
  }
  void memoize(std::uint64_t slot) { memo_[slot] = top(); }
  void recall(std::uint64_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) damaged("a memo slot was never filled");
    push(found->second);
  }
  void append(Value target, const std::vector<Value>& items, Kind kind) {
    if (target->kind == Kind::opaque) return;
    if (target->kind != kind) damaged("items for a value that holds none");
    target->items.insert(target->items.end(), items.begin(), items.end());
  }

  // ---- names and calls ----
  Value global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    if (is_allowed(full, dialect_)) return make_text(Kind::global, full);
    check_file(
        unknown_ == UnknownObjects::skip, path_,
        "pickle asks for '{}', which is not on the list of harmless names; nothing was run | save plain tensors "
        "(a state_dict), or skip such objects with --skip-unknown",
        printable(full));
    return make_text(Kind::opaque, full.substr(0, 200));  // copied once per object of the class
  }

  Value call(Value callee, Value arguments) {
    if (callee->kind == Kind::opaque) return make_text(Kind::opaque, callee->text);
    if (callee->kind != Kind::global || arguments->kind != Kind::tuple)
      damaged("a call of something that is no function");
    const std::string& name = callee->text;
    const auto& args = arguments->items;
    const auto is = [&](std::size_t i, Kind kind) { return i < args.size() && args[i]->kind == kind; };
    const auto ends = [&](std::string_view end) { return name.ends_with(end); };

    if (is_script_class(name)) return make_text(Kind::dict, name);
    if (is_numpy(name)) {
      count_copied(args.size());
      const Value v = make_text(Kind::object, name);
      v->items = args;
      return v;
    }
    if (name.starts_with("torch.jit._pickle.")) {  // a container and its type: build_intlist(list)
      if (!is(0, Kind::list) && !is(0, Kind::tuple) && !is(0, Kind::dict))
        damaged("a typed container of something else");
      return copy_items(args[0]->kind, args[0]);
    }
    if (name == "torch._utils._rebuild_tensor_v2" || name == "torch._utils._rebuild_tensor")
      return rebuild_tensor(args);
    if (ends("._rebuild_parameter") || ends("._rebuild_parameter_with_state")) {
      if (is(0, Kind::opaque)) return make_text(Kind::opaque, args[0]->text);
      if (!is(0, Kind::tensor)) damaged("a parameter without a tensor");
      count_copied(2 * args[0]->size.size());
      const Value v = make(Kind::tensor);
      *v = *args[0];
      return v;
    }
    if (name == "torch.Size" && args.size() == 1 && (is(0, Kind::tuple) || is(0, Kind::list)))
      return copy_items(Kind::tuple, args[0]);
    if (name == "torch.device" && is(0, Kind::text)) return copy_text(Kind::text, args[0]);
    const bool latin1 = is(1, Kind::text) && args[1]->text == "latin1";
    if (name == "_codecs.encode" && args.size() == 2 && is(0, Kind::text) && latin1)
      return copy_text(Kind::bytes, args[0]);
    if (ends(".set") || ends(".frozenset")) {
      if (args.empty()) return make(Kind::set);
      if (args.size() == 1 && (is(0, Kind::list) || is(0, Kind::tuple))) return copy_items(Kind::set, args[0]);
    }
    if (name == "collections.defaultdict" && args.size() <= 1) return make(Kind::dict);
    if (name == "collections.OrderedDict" || name == "collections.Counter" || ends(".dict")) return make_dict(args);
    if (ends(".list") && args.empty()) return make(Kind::list);
    fail_file(
        path_, "pickle: '{}' is called in a way this reader does not know | save plain tensors (a state_dict)",
        printable(name));
  }

  Value copy_items(Kind kind, const PickleValue* from) {
    count_copied(from->items.size());
    const Value v = make(kind);
    v->items = from->items;
    return v;
  }
  Value copy_text(Kind kind, const PickleValue* from) {
    count_copied(from->text.size());
    return make_text(kind, from->text);
  }
  // A copy multiplies items without making values: bound the sum as well.
  void count_copied(std::size_t count) {
    num_copied_ += count;
    check_file(
        num_copied_ <= max_values_, path_, "pickle: copies more than {} items | damaged, or made to exhaust memory",
        max_values_);
  }

  Value make_dict(const std::vector<const PickleValue*>& args) {
    if (args.empty()) return make(Kind::dict);
    if (args.size() == 1 && args[0]->kind == Kind::dict) return copy_items(Kind::dict, args[0]);
    if (args.size() != 1 || (args[0]->kind != Kind::list && args[0]->kind != Kind::tuple))
      damaged("a dictionary made from something else");
    count_copied(args[0]->items.size() * 2);
    const Value dict = make(Kind::dict);
    for (const PickleValue* pair : args[0]->items) {
      if ((pair->kind != Kind::list && pair->kind != Kind::tuple) || pair->items.size() != 2)
        damaged("a dictionary made from no pairs");
      dict->items.insert(dict->items.end(), pair->items.begin(), pair->items.end());
    }
    return dict;
  }

  // _rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks[, metadata])
  Value rebuild_tensor(const std::vector<const PickleValue*>& args) {
    if (!args.empty() && args[0]->kind == Kind::opaque) return make_text(Kind::opaque, args[0]->text);
    const bool good = args.size() >= 4 && args[0]->kind == Kind::storage && args[1]->kind == Kind::integer &&
                      args[2]->kind == Kind::tuple && args[3]->kind == Kind::tuple &&
                      args[2]->items.size() == args[3]->items.size();
    if (!good) damaged("a tensor without storage, offset, size and stride");
    const Value tensor = make(Kind::tensor);
    tensor->items = {args[0]};
    tensor->integer = args[1]->integer;
    for (const int which : {2, 3}) {
      count_copied(args[static_cast<std::size_t>(which)]->items.size());
      for (const PickleValue* extent : args[static_cast<std::size_t>(which)]->items) {
        if (extent->kind != Kind::integer) damaged("a size or stride that is no integer");
        (which == 2 ? tensor->size : tensor->stride).push_back(extent->integer);
      }
    }
    return tensor;
  }

  // ('storage', torch.FloatStorage, '0', 'cpu', number of elements)
  Value persistent(Value id) {
    const auto is = [&](std::size_t i, Kind kind) { return id->items[i]->kind == kind; };
    const bool good = id->kind == Kind::tuple && id->items.size() >= 5 && is(0, Kind::text) &&
                      id->items[0]->text == "storage" && (is(1, Kind::global) || is(1, Kind::opaque)) &&
                      is(2, Kind::text) && is(4, Kind::integer);
    if (!good) damaged("an outside reference that is no tensor storage");
    if (id->items.size() > 5 && !is(5, Kind::none)) damaged("a view of a storage, as versions before 0.4 wrote,");
    if (is(1, Kind::opaque)) return make_text(Kind::opaque, id->items[1]->text);
    const Value storage = make_text(Kind::storage, id->items[1]->text);
    storage->key = id->items[2]->text;
    storage->integer = id->items[4]->integer;
    return storage;
  }

  // Two's complement, little-endian, any length; past 64 bits only the fact is kept.
  Value long_integer(std::uint64_t count) {
    const auto part = take(count);
    if (count > 8) return make_text(Kind::text, fmt::format("<integer of {} bytes>", count));
    std::uint64_t value = count > 0 && (std::to_integer<unsigned>(part[count - 1]) & 0x80u) ? ~std::uint64_t{0} : 0;
    for (std::size_t i = count; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(part[i]);
    return make_integer(static_cast<std::int64_t>(value));
  }

  void step();

  const std::filesystem::path& path_;
  std::span<const std::byte> bytes_;
  UnknownObjects unknown_;
  std::uint64_t max_values_, num_copied_ = 0;
  PickleDialect dialect_;
  std::size_t at_ = 0;
  bool stopped_ = false;
  Pickle result_;
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;  // stack heights
  std::unordered_map<std::uint64_t, Value> memo_;
};

// clang-format off
void Machine::step() {
  const auto opcode = number<std::uint8_t>();
  switch (opcode) {
    // frame and end
    case 0x80: {  // PROTO
      const auto version = number<std::uint8_t>();
      check_file(
          version >= 2 && version <= 5, path_,
          "pickle: protocol {} (2 to 5 can be read) | save it with torch.save's default", version);
      return;
    }
    case 0x95:
      take(8);
      return;  // FRAME: only a hint for buffered reading
    case '.':
      stopped_ = true;
      return;
    // plain values
    case 'N': return push(make(Kind::none));
    case 0x88: return push(make_boolean(true));
    case 0x89: return push(make_boolean(false));
    case 'J': return push(make_integer(number<std::int32_t>()));
    case 'K': return push(make_integer(number<std::uint8_t>()));
    case 'M': return push(make_integer(number<std::uint16_t>()));
    case 0x8a: return push(long_integer(number<std::uint8_t>()));
    case 0x8b: {
      const auto count = number<std::int32_t>();
      if (count < 0) damaged("an integer of negative length");
      return push(long_integer(static_cast<std::uint64_t>(count)));
    }
    case 'G': {  // big-endian double
      const auto part = take(8);
      std::uint64_t bits = 0;
      for (const std::byte b : part) bits = bits << 8 | std::to_integer<std::uint64_t>(b);
      const Value v = make(Kind::real);
      v->real = std::bit_cast<double>(bits);
      return push(v);
    }
    case 'X': return push(make_text(Kind::text, characters(number<std::uint32_t>())));
    case 0x8c: return push(make_text(Kind::text, characters(number<std::uint8_t>())));
    case 0x8d: return push(make_text(Kind::text, characters(number<std::uint64_t>())));
    case 'U': return push(make_text(Kind::text, characters(number<std::uint8_t>())));
    case 'T': return push(make_text(Kind::text, characters(number<std::uint32_t>())));
    case 'C': return push(make_text(Kind::bytes, characters(number<std::uint8_t>())));
    case 'B': return push(make_text(Kind::bytes, characters(number<std::uint32_t>())));
    case 0x8e:
    case 0x96: return push(make_text(Kind::bytes, characters(number<std::uint64_t>())));
    // containers
    case ']': return push(make(Kind::list));
    case '}': return push(make(Kind::dict));
    case 0x8f: return push(make(Kind::set));
    case ')': return push(make(Kind::tuple));
    case '(':
      marks_.push_back(stack_.size());
      return;
    case 't': return push_tuple(pop_to_mark());
    case 0x85: return push_tuple(1);
    case 0x86: return push_tuple(2);
    case 0x87: return push_tuple(3);
    case 'a': {
      const Value item = pop();
      return append(top(), {item}, Kind::list);
    }
    case 'e': {
      const auto items = pop_to_mark();
      return append(top(), items, Kind::list);
    }
    case 's': {
      const Value value = pop(), key = pop();
      return append(top(), {key, value}, Kind::dict);
    }
    case 'u': {
      const auto items = pop_to_mark();
      if (items.size() % 2 != 0) damaged("a key without a value");
      return append(top(), items, Kind::dict);
    }
    case 0x90: {
      const auto items = pop_to_mark();
      return append(top(), items, Kind::set);
    }
    case 0x91: {
      const auto items = pop_to_mark();
      const Value v = make(Kind::set);
      v->items.assign(items.begin(), items.end());
      return push(v);
    }
    // stack and memo
    case '0':
      pop();
      return;
    case '1':
      pop_to_mark();
      return;
    case '2': return push(top());
    case 'q': return memoize(number<std::uint8_t>());
    case 'r': return memoize(number<std::uint32_t>());
    case 0x94: return memoize(memo_.size());
    case 'h': return recall(number<std::uint8_t>());
    case 'j': return recall(number<std::uint32_t>());
    // names, calls, outside references
    case 'c': {
      const std::string module = line();
      return push(global(module, line()));
    }
    case 0x93: {
      const Value name = pop(), module = pop();
      if (name->kind != Kind::text || module->kind != Kind::text) damaged("a name that is no text");
      return push(global(module->text, name->text));
    }
    case 'R':     // callable(*tuple)
    case 0x81: {  // class.__new__(class, *tuple): the same for the classes we know
      const Value arguments = pop(), callee = pop();
      return push(call(callee, arguments));
    }
    case 'b': {  // BUILD: the attributes of a TorchScript module, the state of an array; an OrderedDict's (_metadata)
                 // are of no use here
      const Value attributes = pop();
      if (top()->kind == Kind::object) return top()->items.push_back(attributes);
      if (top()->kind != Kind::opaque && top()->kind != Kind::dict) damaged("attributes for a value that has none");
      if (top()->kind != Kind::dict || !is_script_class(top()->text)) return;
      if (attributes->kind != Kind::dict) damaged("a module whose attributes are no dictionary");
      count_copied(attributes->items.size());
      top()->items.insert(top()->items.end(), attributes->items.begin(), attributes->items.end());
      return;
    }
    case 'Q': return push(persistent(pop()));
    case 'i': {  // INST names its class in the text: report which
      const std::string module = line();
      const std::string name = line();
      fail_file(
          path_, "pickle asks for '{}.{}' through an opcode that is refused; nothing was run", printable(module),
          printable(name));
    }
    default:
      fail_file(
          path_, "pickle: opcode 0x{:02x} at byte {} is not supported | the file is damaged, or no torch.save file",
          opcode, at_ - 1);
  }
}
// clang-format on

}  // namespace

Pickle read_pickle(
    const std::filesystem::path& path, std::span<const std::byte> bytes, UnknownObjects unknown,
    std::uint64_t max_values, PickleDialect dialect) {
  return Machine(path, bytes, unknown, max_values, dialect).run();
}

}  // namespace avid
