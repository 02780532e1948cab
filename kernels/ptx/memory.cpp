// kernels/ptx/memory.cpp -- ld, st, atom, cvta: the spaces of memory
#include <atomic>
#include <cstring>

#include "kernels/ptx/opcode.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

// An access's flags: the space's letter, then whether the address is of 64 bits.
constexpr std::uint32_t kSpaceMask = 0xff;

char space_of(const Opcode& op) {
  if (op.has("global")) return 'g';
  if (op.has("shared") || op.has("shared::cta")) return 's';
  if (op.has("local")) return 'l';
  if (op.has("param")) return 'p';
  return ' ';
}

/// Elements T into registers of Reg, with copies of the sign or zeros above.
template <class T, class Reg>
void load(Warp& warp, const Instruction& i) {
  const char space = static_cast<char>(i.flags & kSpaceMask);
  const std::uint32_t bytes = static_cast<std::uint32_t>(sizeof(T)) * i.num_to;
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    const unsigned char* from = warp.memory(space, warp.address(i, lane), bytes, lane, false);
    for (int k = 0; k < i.num_to; ++k) {
      T value;
      std::memcpy(&value, from + sizeof(T) * static_cast<std::size_t>(k), sizeof(T));
      warp.lanes<Reg>(i.to[k])[lane] = kept_of<Reg>(static_cast<Reg>(value));
    }
  }
}

template <class T>
void store(Warp& warp, const Instruction& i) {
  const char space = static_cast<char>(i.flags & kSpaceMask);
  const int count = i.num_from - 1;
  const std::uint32_t bytes = static_cast<std::uint32_t>(sizeof(T)) * static_cast<std::uint32_t>(count);
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    unsigned char* to = warp.memory(space, warp.address(i, lane), bytes, lane, true);
    for (int k = 0; k < count; ++k) {
      const T value = warp.value<T>(i.from[k + 1], lane);
      std::memcpy(to + sizeof(T) * static_cast<std::size_t>(k), &value, sizeof(T));
    }
  }
}

/// atom.exch: in the order of the lanes.
void exchange(Warp& warp, const Instruction& i) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    auto* at = reinterpret_cast<std::uint32_t*>(
        warp.memory(static_cast<char>(i.flags & kSpaceMask), warp.address(i, lane), 4, lane, true));
    const auto value = warp.value<std::uint32_t>(i.from[1], lane);
    warp.lanes<std::uint32_t>(i.to[0])[lane] = std::atomic_ref(*at).exchange(value);
  }
}

/// cvta and cvta.to: between a space's addresses and generic ones.
template <std::uint64_t kWindow, bool kToSpace>
void convert_address(Warp& warp, const Instruction& i) {
  const Kept<std::uint64_t>* a = warp.lanes<std::uint64_t>(i.from[0]);
  for (int lane = 0; lane < kLanes; ++lane)
    if (kToSpace && (warp.mask() >> lane & 1) != 0 && (a[lane] & kWindowMask) != kWindow && a[lane] != 0)
      warp.fail("a generic address of another space", lane);
  for_lanes<std::uint64_t>(warp, i.to[0], [&](int l) { return kToSpace ? a[l] & ~kWindowMask : (a[l] | kWindow); });
}

Action load_of(Type type) {
  switch (type.bits) {
    case 8: return type.kind == 's' ? &load<std::int8_t, std::int32_t> : &load<std::uint8_t, std::uint32_t>;
    case 16: return type.kind == 's' ? &load<std::int16_t, std::int32_t> : &load<std::uint16_t, std::uint32_t>;
    case 32: return &load<std::uint32_t, std::uint32_t>;
    case 64: return &load<std::uint64_t, std::uint64_t>;
    default: return nullptr;
  }
}

Action store_of(Type type) {
  switch (type.bits) {
    case 8: return &store<std::uint8_t>;
    case 16: return &store<std::uint16_t>;
    case 32: return &store<std::uint32_t>;
    case 64: return &store<std::uint64_t>;
    default: return nullptr;
  }
}

template <bool kToSpace>
Action address_action(const Opcode& op) {
  switch (space_of(op)) {
    case 'g': return &convert_address<0, kToSpace>;
    case 's': return &convert_address<kSharedWindow, kToSpace>;
    case 'l': return &convert_address<kLocalWindow, kToSpace>;
    case 'p': return &convert_address<kParameterWindow, kToSpace>;
    default: return nullptr;
  }
}

}  // namespace

Known known_memory(const Opcode& op) {
  const std::uint32_t space = static_cast<std::uint32_t>(space_of(op));
  if (op.name == "ld") return {.action = load_of(op.type), .flags = space};
  if (op.name == "st") return {.action = store_of(op.type), .flags = space};
  if (op.name == "atom" && op.has("exch") && op.type.bits == 32) return {.action = &exchange, .flags = space};
  if (op.name == "cvta" && op.type == Type{'u', 64})
    return {.action = op.has("to") ? address_action<true>(op) : address_action<false>(op)};
  return {};
}

}  // namespace avid::kernels::ptx
