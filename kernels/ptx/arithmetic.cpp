// kernels/ptx/arithmetic.cpp -- sums, products, quotients, logic, comparisons and selections, lane by lane
//
// Approximate functions (ex2.approx, div.approx ...) are exact to a rounding here; a GPU's differ in the last bits.
#include <cfenv>
#include <cmath>
#include <limits>

#include "kernels/ptx/opcode.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

template <class T>
using Bits =
    std::conditional_t<sizeof(T) == 8, std::uint64_t, std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;

/// Wraps, as integers of a GPU do; floats as they are.
template <class T, class F>
T wrapped(T a, T b, F f) {
  if constexpr (std::is_floating_point_v<T>)
    return f(a, b);
  else if constexpr (sizeof(T) < 4)
    return static_cast<T>(f(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b)));
  else
    return static_cast<T>(f(static_cast<Bits<T>>(a), static_cast<Bits<T>>(b)));
}

struct Add {
  template <class T>
  static T of(T a, T b) {
    return wrapped(a, b, [](auto x, auto y) { return x + y; });
  }
};
struct Subtract {
  template <class T>
  static T of(T a, T b) {
    return wrapped(a, b, [](auto x, auto y) { return x - y; });
  }
};
struct Multiply {  // mul.lo of integers
  template <class T>
  static T of(T a, T b) {
    return wrapped(a, b, [](auto x, auto y) { return x * y; });
  }
};
struct MultiplyHigh {
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
      return a * b;
    else if constexpr (std::is_signed_v<T>)
      return static_cast<T>(static_cast<__int128>(a) * b >> (8 * sizeof(T)));
    else
      return static_cast<T>(static_cast<unsigned __int128>(a) * b >> (8 * sizeof(T)));
  }
};
struct Divide {  // a quotient by zero has all bits set
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
      return a / b;
    else if constexpr (std::is_signed_v<T>)
      return b == 0 ? T{-1} : b == -1 ? Subtract::of(T{0}, a) : static_cast<T>(a / b);
    else
      return b == 0 ? static_cast<T>(~T{0}) : static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return a;
    } else if constexpr (std::is_signed_v<T>) {
      return b == 0 ? a : b == -1 ? T{0} : static_cast<T>(a % b);
    } else {
      return b == 0 ? a : static_cast<T>(a % b);
    }
  }
};
struct Least {  // of a NaN and a number, the number
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
      return std::fmin(a, b);
    else
      return a < b ? a : b;
  }
};
struct Greatest {
  template <class T>
  static T of(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
      return std::fmax(a, b);
    else
      return a > b ? a : b;
  }
};
struct And {
  template <class T>
  static T of(T a, T b) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static T of(T a, T b) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static T of(T a, T b) {
    return a ^ b;
  }
};
struct Absolute {
  template <class T>
  static T of(T a) {
    if constexpr (std::is_floating_point_v<T>)
      return std::fabs(a);
    else
      return a < 0 ? Subtract::of(T{0}, a) : a;
  }
};
struct Negate {
  template <class T>
  static T of(T a) {
    if constexpr (std::is_floating_point_v<T>)
      return -a;
    else
      return Subtract::of(T{0}, a);
  }
};
struct Not {
  template <class T>
  static T of(T a) {
    return static_cast<T>(~a);
  }
};
struct Same {
  template <class T>
  static T of(T a) {
    return a;
  }
};

float flushed(float v) { return std::fabs(v) < std::numeric_limits<float>::min() ? std::copysign(0.0f, v) : v; }

struct Exp2 {
  static float of(float a) { return std::exp2(a); }
};
struct Exp2Flushed {
  static float of(float a) { return flushed(std::exp2(flushed(a))); }
};
struct Log2 {
  static float of(float a) { return std::log2(a); }
};
struct Reciprocal {
  template <class T>
  static T of(T a) {
    return T{1} / a;
  }
};
struct ReciprocalFlushed {
  static float of(float a) { return flushed(1.0f / flushed(a)); }
};
struct ReciprocalRoot {
  static float of(float a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
};
struct Root {
  template <class T>
  static T of(T a) {
    return std::sqrt(a);
  }
};

template <class T, class Op>
void unary(Warp& warp, const Instruction& i) {
  const Kept<T>* a = warp.lanes<T>(i.from[0]);
  for_lanes<T>(warp, i.to[0], [&](int l) { return Op::of(value_of<T>(a[l])); });
}
template <class T, class Op>
void binary(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]);
  for_lanes<T>(warp, i.to[0], [&](int l) { return Op::of(value_of<T>(a[l]), value_of<T>(b[l])); });
}
/// mad.lo: a b + c.
template <class T>
void multiply_add(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]), *c = warp.lanes<T>(i.from[2]);
  for_lanes<T>(warp, i.to[0], [&](int l) {
    return Add::of(Multiply::of(value_of<T>(a[l]), value_of<T>(b[l])), value_of<T>(c[l]));
  });
}
/// mul.wide and mad.wide: a product of twice the width.
template <class T, class Wide, bool kAdds>
void multiply_wide(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]);
  for_lanes<Wide>(warp, i.to[0], [&](int l) {
    const Wide product = Multiply::of(static_cast<Wide>(value_of<T>(a[l])), static_cast<Wide>(value_of<T>(b[l])));
    if constexpr (kAdds)
      return Add::of(product, value_of<Wide>(warp.lanes<Wide>(i.from[2])[l]));
    else
      return product;
  });
}
template <class T>
void fused_multiply_add(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]), *c = warp.lanes<T>(i.from[2]);
  for_lanes<T>(warp, i.to[0], [&](int l) { return std::fma(value_of<T>(a[l]), value_of<T>(b[l]), value_of<T>(c[l])); });
}
/// fma.rm: rounded towards minus infinity. The product of two floats is exact in double; so is the question whether the
/// nearest sum lies above the true one, which the sum of doubles and its error answer (Knuth's two-sum).
void fused_multiply_add_down(Warp& warp, const Instruction& i) {
  const Kept<float>*a = warp.lanes<float>(i.from[0]), *b = warp.lanes<float>(i.from[1]),
        *c = warp.lanes<float>(i.from[2]);
  for_lanes<float>(warp, i.to[0], [&](int l) {
    const float x = value_of<float>(a[l]), y = value_of<float>(b[l]), z = value_of<float>(c[l]);
    const float nearest = std::fma(x, y, z);
    const double product = static_cast<double>(x) * y, sum = product + z, part = sum - product;
    const double lost = (product - (sum - part)) + (z - part);  // sum + lost is exact
    const double over = static_cast<double>(nearest) - sum;     // exact: both lie within a rounding of each other
    return over > lost ? std::nextafterf(nearest, -std::numeric_limits<float>::infinity()) : nearest;
  });
}
/// copysign d, a, b: the sign of a, the size of b.
void copy_sign(Warp& warp, const Instruction& i) {
  const Kept<float>*a = warp.lanes<float>(i.from[0]), *b = warp.lanes<float>(i.from[1]);
  for_lanes<float>(warp, i.to[0], [&](int l) { return std::copysign(value_of<float>(b[l]), value_of<float>(a[l])); });
}
template <class T>
void shift_left(Warp& warp, const Instruction& i) {
  const Kept<T>* a = warp.lanes<T>(i.from[0]);
  const Kept<std::uint32_t>* n = warp.lanes<std::uint32_t>(i.from[1]);
  for_lanes<T>(
      warp, i.to[0], [&](int l) { return n[l] >= 8 * sizeof(T) ? T{0} : static_cast<T>(value_of<T>(a[l]) << n[l]); });
}
template <class T>
void shift_right(Warp& warp, const Instruction& i) {  // of signed numbers with copies of the sign
  const Kept<T>* a = warp.lanes<T>(i.from[0]);
  const Kept<std::uint32_t>* n = warp.lanes<std::uint32_t>(i.from[1]);
  for_lanes<T>(warp, i.to[0], [&](int l) {
    const T v = value_of<T>(a[l]);
    if (n[l] >= 8 * sizeof(T)) return static_cast<T>(v < 0 ? -1 : 0);
    return static_cast<T>(v >> n[l]);
  });
}
/// bfi d, a, b, at, count: the low `count` bits of a, put into b.
template <class T>
void insert_bits(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]);
  const Kept<std::uint32_t>*at = warp.lanes<std::uint32_t>(i.from[2]), *count = warp.lanes<std::uint32_t>(i.from[3]);
  for_lanes<T>(warp, i.to[0], [&](int l) {
    constexpr std::uint32_t kWidth = 8 * sizeof(T);
    const std::uint32_t first = at[l] & 0xff, n = std::min(count[l] & 0xff, first < kWidth ? kWidth - first : 0);
    if (n == 0) return static_cast<T>(b[l]);
    const T ones = n == kWidth ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << n) - 1);
    return static_cast<T>((b[l] & ~(ones << first)) | ((a[l] & ones) << first));
  });
}
/// prmt: each nibble of the selector names one of the eight bytes of a and b; its high bit asks for copies of the sign.
void permute_bytes(Warp& warp, const Instruction& i) {
  const Kept<std::uint32_t>*a = warp.lanes<std::uint32_t>(i.from[0]), *b = warp.lanes<std::uint32_t>(i.from[1]),
        *selector = warp.lanes<std::uint32_t>(i.from[2]);
  for_lanes<std::uint32_t>(warp, i.to[0], [&](int l) {
    const std::uint64_t bytes = std::uint64_t{b[l]} << 32 | a[l];
    std::uint32_t out = 0;
    for (int k = 0; k < 4; ++k) {
      const std::uint32_t nibble = selector[l] >> (4 * k) & 15;
      std::uint32_t byte = static_cast<std::uint32_t>(bytes >> (8 * (nibble & 7)) & 0xff);
      if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
      out |= byte << (8 * k);
    }
    return out;
  });
}

// ---- comparisons ----

enum class Compare : std::uint32_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan, unknown };

Compare compare_of(std::string_view piece) {
  constexpr std::string_view kNames[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                         "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
  for (std::uint32_t k = 0; k < std::size(kNames); ++k)
    if (kNames[k] == piece) return static_cast<Compare>(k);
  // lo, ls, hi, hs: of unsigned numbers, whose type says so already
  if (piece == "lo") return Compare::lt;
  if (piece == "ls") return Compare::le;
  if (piece == "hi") return Compare::gt;
  if (piece == "hs") return Compare::ge;
  return Compare::unknown;
}

template <class T>
bool holds(Compare compare, T a, T b) {
  bool unordered = false;
  if constexpr (std::is_floating_point_v<T>) unordered = std::isnan(a) || std::isnan(b);
  switch (compare) {
    case Compare::eq: return a == b;
    case Compare::ne: return !unordered && a != b;
    case Compare::lt: return a < b;
    case Compare::le: return a <= b;
    case Compare::gt: return a > b;
    case Compare::ge: return a >= b;
    case Compare::equ: return unordered || a == b;
    case Compare::neu: return unordered || a != b;
    case Compare::ltu: return unordered || a < b;
    case Compare::leu: return unordered || a <= b;
    case Compare::gtu: return unordered || a > b;
    case Compare::geu: return unordered || a >= b;
    case Compare::num: return !unordered;
    case Compare::nan: return unordered;
    case Compare::unknown: break;
  }
  return false;
}

constexpr std::uint32_t kAnd = 1, kOr = 2, kXor = 3;  // setp's second operation, in the flags above the comparison

/// setp p[|q], a, b [, c]: p = (a ? b) op c, q = !(a ? b) op c.
template <class T, Compare kCompare>
void set_predicate_of(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]);
  std::uint32_t lanes = 0;
  for (int l = 0; l < kLanes; ++l)
    lanes |= static_cast<std::uint32_t>(holds(kCompare, value_of<T>(a[l]), value_of<T>(b[l]))) << l;
  const auto combined = [&](std::uint32_t v) {
    if (i.flags == 0) return v;
    const std::uint32_t c = i.number != 0 ? ~warp.predicate(i.from[2]) : warp.predicate(i.from[2]);
    return i.flags == kAnd ? v & c : i.flags == kOr ? v | c : v ^ c;
  };
  const std::uint32_t first = combined(lanes), second = combined(~lanes);
  warp.set_predicate(i.to[0], first);
  if (i.num_to > 1) warp.set_predicate(i.to[1], second);
}
template <class T>
Action comparison(Compare compare) {
  switch (compare) {
    case Compare::eq: return &set_predicate_of<T, Compare::eq>;
    case Compare::ne: return &set_predicate_of<T, Compare::ne>;
    case Compare::lt: return &set_predicate_of<T, Compare::lt>;
    case Compare::le: return &set_predicate_of<T, Compare::le>;
    case Compare::gt: return &set_predicate_of<T, Compare::gt>;
    case Compare::ge: return &set_predicate_of<T, Compare::ge>;
    case Compare::equ: return &set_predicate_of<T, Compare::equ>;
    case Compare::neu: return &set_predicate_of<T, Compare::neu>;
    case Compare::ltu: return &set_predicate_of<T, Compare::ltu>;
    case Compare::leu: return &set_predicate_of<T, Compare::leu>;
    case Compare::gtu: return &set_predicate_of<T, Compare::gtu>;
    case Compare::geu: return &set_predicate_of<T, Compare::geu>;
    case Compare::num: return &set_predicate_of<T, Compare::num>;
    case Compare::nan: return &set_predicate_of<T, Compare::nan>;
    case Compare::unknown: break;
  }
  return nullptr;
}

template <class T>
void select(Warp& warp, const Instruction& i) {
  const Kept<T>*a = warp.lanes<T>(i.from[0]), *b = warp.lanes<T>(i.from[1]);
  const std::uint32_t first = warp.predicate(i.from[2]);
  for_lanes<T>(warp, i.to[0], [&](int l) { return value_of<T>(first >> l & 1 ? a[l] : b[l]); });
}

// ---- predicates ----

void predicate_and(Warp& warp, const Instruction& i) {
  warp.set_predicate(i.to[0], warp.predicate(i.from[0]) & warp.predicate(i.from[1]));
}
void predicate_or(Warp& warp, const Instruction& i) {
  warp.set_predicate(i.to[0], warp.predicate(i.from[0]) | warp.predicate(i.from[1]));
}
void predicate_xor(Warp& warp, const Instruction& i) {
  warp.set_predicate(i.to[0], warp.predicate(i.from[0]) ^ warp.predicate(i.from[1]));
}
void predicate_not(Warp& warp, const Instruction& i) { warp.set_predicate(i.to[0], ~warp.predicate(i.from[0])); }
/// From a predicate, or from a constant: `mov.pred %p1, 0`.
void predicate_move(Warp& warp, const Instruction& i) {
  const Place from = i.from[0];
  const bool is_constant = (from & kPredicate) == 0;
  warp.set_predicate(
      i.to[0], !is_constant                             ? warp.predicate(from)
               : warp.uniform<std::uint32_t>(from) != 0 ? kAllLanes
                                                        : 0);
}

// ---- tables ----

/// of(T{}) for the C++ type of a PTX type; bits count as unsigned.
template <class F>
Action integer_action(Type type, F of) {
  const bool is_signed = type.kind == 's';
  switch (type.bits) {
    case 16: return is_signed ? of(std::int16_t{}) : of(std::uint16_t{});
    case 32: return is_signed ? of(std::int32_t{}) : of(std::uint32_t{});
    case 64: return is_signed ? of(std::int64_t{}) : of(std::uint64_t{});
    default: return nullptr;
  }
}
template <class F>
Action float_action(Type type, F of) {
  return type.bits == 32 ? of(float{}) : type.bits == 64 ? of(double{}) : nullptr;
}
template <class F>
Action number_action(Type type, F of) {
  return type.kind == 'f' ? float_action(type, of) : integer_action(type, of);
}
template <class F>
Action bits_action(Type type, F of) {
  return integer_action(Type{'b', type.bits}, of);
}
template <class Op>
Action binary_numbers(Type type) {
  return number_action(type, [](auto zero) -> Action { return &binary<decltype(zero), Op>; });
}
template <class Op>
Action binary_bits(Type type) {
  return bits_action(type, [](auto zero) -> Action { return &binary<decltype(zero), Op>; });
}
template <class Op>
Action unary_numbers(Type type) {
  return number_action(type, [](auto zero) -> Action { return &unary<decltype(zero), Op>; });
}

template <bool kAdds>
Action wide_product(Type type) {
  if (type == Type{'u', 16}) return &multiply_wide<std::uint16_t, std::uint32_t, kAdds>;
  if (type == Type{'s', 16}) return &multiply_wide<std::int16_t, std::int32_t, kAdds>;
  if (type == Type{'u', 32}) return &multiply_wide<std::uint32_t, std::uint64_t, kAdds>;
  if (type == Type{'s', 32}) return &multiply_wide<std::int32_t, std::int64_t, kAdds>;
  return nullptr;
}

Action of_float(const Opcode& op) {
  const bool is_f32 = op.type.bits == 32, approximate = op.has("approx"), flushes = op.has("ftz");
  if (op.name == "ex2" && is_f32) return flushes ? &unary<float, Exp2Flushed> : &unary<float, Exp2>;
  if (op.name == "lg2" && is_f32) return &unary<float, Log2>;
  if (op.name == "rsqrt" && is_f32) return &unary<float, ReciprocalRoot>;
  if (op.name == "rcp" && is_f32 && approximate && flushes) return &unary<float, ReciprocalFlushed>;
  if (flushes) return nullptr;
  if (op.name == "rcp") return float_action(op.type, [](auto z) -> Action { return &unary<decltype(z), Reciprocal>; });
  if (op.name == "sqrt") return float_action(op.type, [](auto z) -> Action { return &unary<decltype(z), Root>; });
  if (op.name == "copysign" && is_f32) return &copy_sign;
  if (op.name == "fma" && op.has("rn"))
    return float_action(op.type, [](auto z) -> Action { return &fused_multiply_add<decltype(z)>; });
  if (op.name == "fma" && op.has("rm") && is_f32) return &fused_multiply_add_down;
  return nullptr;
}

Action of_predicates(const Opcode& op) {
  if (op.name == "and") return &predicate_and;
  if (op.name == "or") return &predicate_or;
  if (op.name == "xor") return &predicate_xor;
  if (op.name == "not") return &predicate_not;
  if (op.name == "mov") return &predicate_move;
  return nullptr;
}

Action action_of(const Opcode& op) {
  const Type type = op.type;
  if (type.kind == 'p') return of_predicates(op);
  for (const std::string_view rounding : {"rz", "rp", "sat"})
    if (op.has(rounding)) return nullptr;
  if (const Action action = type.kind == 'f' ? of_float(op) : nullptr) return action;
  if (op.has("ftz") || (op.has("rm") && op.name != "fma")) return nullptr;
  if (op.name == "add" && !op.has("cc")) return binary_numbers<Add>(type);
  if (op.name == "sub" && !op.has("cc")) return binary_numbers<Subtract>(type);
  if (op.name == "mul") {
    if (op.has("wide")) return wide_product<false>(type);
    if (op.has("hi")) return integer_action(type, [](auto z) -> Action { return &binary<decltype(z), MultiplyHigh>; });
    return binary_numbers<Multiply>(type);
  }
  if (op.name == "mad" && op.has("lo"))
    return integer_action(type, [](auto z) -> Action { return &multiply_add<decltype(z)>; });
  if (op.name == "mad" && op.has("wide")) return wide_product<true>(type);
  if (op.name == "div") return binary_numbers<Divide>(type);
  if (op.name == "rem") return integer_action(type, [](auto z) -> Action { return &binary<decltype(z), Remainder>; });
  if (op.name == "min") return binary_numbers<Least>(type);
  if (op.name == "max") return binary_numbers<Greatest>(type);
  if (op.name == "abs") return unary_numbers<Absolute>(type);
  if (op.name == "neg") return unary_numbers<Negate>(type);
  if (op.name == "and") return binary_bits<And>(type);
  if (op.name == "or") return binary_bits<Or>(type);
  if (op.name == "xor") return binary_bits<Xor>(type);
  if (op.name == "not") return bits_action(type, [](auto z) -> Action { return &unary<decltype(z), Not>; });
  if (op.name == "mov") return bits_action(type, [](auto z) -> Action { return &unary<decltype(z), Same>; });
  if (op.name == "shl") return bits_action(type, [](auto z) -> Action { return &shift_left<decltype(z)>; });
  if (op.name == "shr") return integer_action(type, [](auto z) -> Action { return &shift_right<decltype(z)>; });
  if (op.name == "bfi") return bits_action(type, [](auto z) -> Action { return &insert_bits<decltype(z)>; });
  if (op.name == "prmt" && op.pieces.size() == 1) return &permute_bytes;
  if (op.name == "selp") return bits_action(type, [](auto z) -> Action { return &select<decltype(z)>; });
  if (op.name == "setp" && !op.pieces.empty())
    return number_action(
        type, [&](auto z) -> Action { return comparison<decltype(z)>(compare_of(op.pieces.front())); });
  return nullptr;
}

}  // namespace

Known known_arithmetic(const Opcode& op) {
  Known known{.action = action_of(op)};
  if (op.name == "setp") known.flags = op.has("and") ? kAnd : op.has("or") ? kOr : op.has("xor") ? kXor : 0;
  return known;
}

}  // namespace avid::kernels::ptx
