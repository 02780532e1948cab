// kernels/ptx/conversions.cpp -- cvt: between integers and floats of all widths, and the formats of the tensor cores
#include <cmath>
#include <limits>

#include "kernels/ptx/opcode.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

constexpr std::uint32_t kToNearest = 1, kToZero = 2, kDown = 3, kUp = 4, kSaturate = 8;  // flags: rni, rzi, rmi, rpi

double rounded(double v, std::uint32_t how) {
  switch (how & 7) {
    case kToNearest: return std::nearbyint(v);
    case kToZero: return std::trunc(v);
    case kDown: return std::floor(v);
    case kUp: return std::ceil(v);
    default: return v;
  }
}

template <class To, class From>
To converted(From v, std::uint32_t how) {
  if constexpr (std::is_floating_point_v<To> && std::is_floating_point_v<From>) {
    To out = static_cast<To>((how & 7) != 0 ? static_cast<From>(rounded(v, how)) : v);
    if (how & kSaturate) out = std::isnan(out) ? To{0} : std::fmin(std::fmax(out, To{0}), To{1});
    return out;
  } else if constexpr (std::is_floating_point_v<From>) {  // to an integer: clamped, NaN is 0
    const double whole = rounded(v, how);
    if (std::isnan(whole)) return To{0};
    if (whole <= static_cast<double>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (whole >= static_cast<double>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(whole);
  } else {
    return static_cast<To>(v);
  }
}

template <class To, class From>
void convert(Warp& warp, const Instruction& i) {
  const Kept<From>* a = warp.lanes<From>(i.from[0]);
  const std::uint32_t how = i.flags;
  for_lanes<To>(warp, i.to[0], [&](int l) { return converted<To>(value_of<From>(a[l]), how); });
}

std::uint32_t bf16_bits(float v) {  // nearest even
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if (std::isnan(v)) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
/// cvt.rn.bf16x2.f32 d, a, b: a in the high half.
void pack_bf16(Warp& warp, const Instruction& i) {
  const Kept<float>*a = warp.lanes<float>(i.from[0]), *b = warp.lanes<float>(i.from[1]);
  for_lanes<std::uint32_t>(
      warp, i.to[0], [&](int l) { return bf16_bits(value_of<float>(a[l])) << 16 | bf16_bits(value_of<float>(b[l])); });
}
void to_bf16(Warp& warp, const Instruction& i) {
  const Kept<float>* a = warp.lanes<float>(i.from[0]);
  for_lanes<std::uint32_t>(warp, i.to[0], [&](int l) { return bf16_bits(value_of<float>(a[l])); });
}
/// cvt.rna.tf32.f32: ten bits behind the point, ties away from zero.
void to_tf32(Warp& warp, const Instruction& i) {
  const Kept<float>* a = warp.lanes<float>(i.from[0]);
  for_lanes<std::uint32_t>(
      warp, i.to[0], [&](int l) { return std::isfinite(value_of<float>(a[l])) ? (a[l] + 0x1000) & ~0x1fffu : a[l]; });
}

/// mov d, {a, b}: a in the low half.
template <class Whole, class Part>
void pack(Warp& warp, const Instruction& i) {
  const Kept<Part>*a = warp.lanes<Part>(i.from[0]), *b = warp.lanes<Part>(i.from[1]);
  for_lanes<Whole>(warp, i.to[0], [&](int l) {
    return static_cast<Whole>(
        Whole{value_of<Part>(a[l])} | static_cast<Whole>(value_of<Part>(b[l])) << (8 * sizeof(Part)));
  });
}
/// mov {a, b}, d
template <class Whole, class Part>
void unpack(Warp& warp, const Instruction& i) {
  const Kept<Whole>* whole = warp.lanes<Whole>(i.from[0]);
  Whole values[kLanes];
  for (int l = 0; l < kLanes; ++l) values[l] = value_of<Whole>(whole[l]);
  for_lanes<Part>(warp, i.to[0], [&](int l) { return static_cast<Part>(values[l]); });
  for_lanes<Part>(warp, i.to[1], [&](int l) { return static_cast<Part>(values[l] >> (8 * sizeof(Part))); });
}

template <class F>
Action with_type(Type type, F of) {
  if (type == Type{'u', 8} || type == Type{'b', 8}) return of(std::uint8_t{});
  if (type == Type{'s', 8}) return of(std::int8_t{});
  if (type == Type{'u', 16}) return of(std::uint16_t{});
  if (type == Type{'s', 16}) return of(std::int16_t{});
  if (type == Type{'u', 32}) return of(std::uint32_t{});
  if (type == Type{'s', 32}) return of(std::int32_t{});
  if (type == Type{'u', 64}) return of(std::uint64_t{});
  if (type == Type{'s', 64}) return of(std::int64_t{});
  if (type == Type{'f', 32}) return of(float{});
  if (type == Type{'f', 64}) return of(double{});
  return nullptr;
}

}  // namespace

Action packing(Type whole, std::size_t parts, bool unpacks) {
  if (parts != 2) return nullptr;
  if (whole.bits == 32) return unpacks ? &unpack<std::uint32_t, std::uint16_t> : &pack<std::uint32_t, std::uint16_t>;
  if (whole.bits == 64) return unpacks ? &unpack<std::uint64_t, std::uint32_t> : &pack<std::uint64_t, std::uint32_t>;
  return nullptr;
}

Known known_conversion(const Opcode& op) {
  if (op.name != "cvt") return {};
  if (op.has("bf16x2")) return {.action = op.has("rn") ? &pack_bf16 : nullptr};
  if (op.has("bf16")) return {.action = op.has("rn") && op.type == Type{'f', 32} ? &to_bf16 : nullptr};
  if (op.has("tf32")) return {.action = op.has("rna") ? &to_tf32 : nullptr};
  for (const std::string_view unknown : {"ftz", "rz", "rm", "rp", "relu", "satfinite"})
    if (op.has(unknown)) return {};
  if (op.types.size() != 2) return {};
  Known known;
  known.flags = op.has("rni") ? kToNearest : op.has("rzi") ? kToZero : op.has("rmi") ? kDown : op.has("rpi") ? kUp : 0;
  if (op.has("sat")) known.flags |= kSaturate;
  if (op.has("sat") && op.types[0].kind != 'f') return {};
  known.action = with_type(op.types[0], [&](auto to) {
    return with_type(op.types[1], [](auto from) -> Action { return &convert<decltype(to), decltype(from)>; });
  });
  return known;
}

}  // namespace avid::kernels::ptx
