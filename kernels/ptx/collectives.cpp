// kernels/ptx/collectives.cpp -- what lanes of a warp do together: shuffles, votes, reductions, 8x8 blocks
#include <algorithm>

#include "kernels/ptx/opcode.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

enum class Shuffle { up, down, butterfly, index };

/// shfl.sync d|p, a, b, c, mask: d = a of another lane. c: the lane's limits within a segment.
template <Shuffle kHow>
void shuffle(Warp& warp, const Instruction& i) {
  const Kept<std::uint32_t>*a = warp.lanes<std::uint32_t>(i.from[0]), *b = warp.lanes<std::uint32_t>(i.from[1]),
        *c = warp.lanes<std::uint32_t>(i.from[2]);
  std::uint32_t out[kLanes] = {}, valid_lanes = 0;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    const std::uint32_t segment = c[lane] >> 8 & 31, limit = c[lane] & 31, by = b[lane] & 31;
    const std::uint32_t most = (lane & segment) | (limit & ~segment), least = lane & segment;
    std::uint32_t other = 0;
    bool valid = false;
    switch (kHow) {
      case Shuffle::up: other = lane - by, valid = static_cast<int>(other) >= static_cast<int>(most); break;
      case Shuffle::down: other = lane + by, valid = other <= most; break;
      case Shuffle::butterfly: other = lane ^ by, valid = other <= most; break;
      case Shuffle::index: other = least | (by & ~segment), valid = other <= most; break;
    }
    if (!valid) other = lane;
    if ((warp.mask() >> other & 1) == 0)
      warp.fail("a shuffle reads lane " + std::to_string(other) + ", which takes no part", static_cast<int>(lane));
    out[lane] = a[other];
    valid_lanes |= static_cast<std::uint32_t>(valid) << lane;
  }
  for_lanes<std::uint32_t>(warp, i.to[0], [&](int l) { return out[l]; });
  if (i.num_to > 1) warp.set_predicate(i.to[1], valid_lanes);
}

void vote_any(Warp& warp, const Instruction& i) {
  warp.set_predicate(i.to[0], (warp.predicate(i.from[0]) & warp.mask()) != 0 ? kAllLanes : 0);
}
void vote_all(Warp& warp, const Instruction& i) {
  warp.set_predicate(i.to[0], (warp.predicate(i.from[0]) & warp.mask()) == warp.mask() ? kAllLanes : 0);
}
void vote_ballot(Warp& warp, const Instruction& i) {
  const std::uint32_t votes = warp.predicate(i.from[0]) & warp.mask();
  for_lanes<std::uint32_t>(warp, i.to[0], [&](int) { return votes; });
}

/// redux.sync
template <class T, bool kGreatest>
void reduce(Warp& warp, const Instruction& i) {
  T out = warp.uniform<T>(i.from[0]);
  for (int lane = 0; lane < kLanes; ++lane)
    if (warp.mask() >> lane & 1) {
      const T v = warp.value<T>(i.from[0], lane);
      out = kGreatest ? std::max(out, v) : std::min(out, v);
    }
  for_lanes<T>(warp, i.to[0], [&](int) { return out; });
}

/// ldmatrix: lane r of eights addresses row r % 8 of matrix r / 8; register j of lane gets the two elements
/// [lane / 4][2 (lane % 4) ..] of matrix j, of its transpose with .trans.
template <bool kTransposed>
void load_matrix(Warp& warp, const Instruction& i) {
  const unsigned char* rows[kLanes] = {};
  for (int r = 0; r < 8 * i.num_to; ++r) {
    rows[r] = warp.memory('s', warp.address(i, r), 16, r, false);
  }
  for (int j = 0; j < i.num_to; ++j) {
    const auto element = [&](int row, int column) {
      std::uint16_t v;
      std::memcpy(&v, rows[8 * j + row] + 2 * column, 2);
      return std::uint32_t{v};
    };
    for_lanes<std::uint32_t>(warp, i.to[j], [&](int l) {
      const int g = l / 4, t = 2 * (l % 4);
      return kTransposed ? element(t, g) | element(t + 1, g) << 16 : element(g, t) | element(g, t + 1) << 16;
    });
  }
}

/// movmatrix.trans: row g of the block lies in lanes 4 g to 4 g + 3.
void transpose_matrix(Warp& warp, const Instruction& i) {
  std::uint32_t words[kLanes];
  for (int l = 0; l < kLanes; ++l) words[l] = warp.value<std::uint32_t>(i.from[0], l);
  const auto element = [&](int row, int column) { return words[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff; };
  for_lanes<std::uint32_t>(warp, i.to[0], [&](int l) {
    const int g = l / 4, t = 2 * (l % 4);
    return element(t, g) | element(t + 1, g) << 16;
  });
}

Action shuffle_of(const Opcode& op) {
  if (op.has("up")) return &shuffle<Shuffle::up>;
  if (op.has("down")) return &shuffle<Shuffle::down>;
  if (op.has("bfly")) return &shuffle<Shuffle::butterfly>;
  if (op.has("idx")) return &shuffle<Shuffle::index>;
  return nullptr;
}

Action reduction_of(const Opcode& op) {
  const bool greatest = op.has("max");
  if (!greatest && !op.has("min")) return nullptr;
  if (op.type == Type{'s', 32}) return greatest ? &reduce<std::int32_t, true> : &reduce<std::int32_t, false>;
  if (op.type == Type{'u', 32}) return greatest ? &reduce<std::uint32_t, true> : &reduce<std::uint32_t, false>;
  return nullptr;
}

}  // namespace

Known known_collective(const Opcode& op) {
  using Kind = Instruction::Kind;
  if (op.name == "shfl" && op.has("sync")) return {.action = shuffle_of(op), .kind = Kind::collective};
  if (op.name == "redux" && op.has("sync")) return {.action = reduction_of(op), .kind = Kind::collective};
  if (op.name == "bar" && op.has("warp") && op.has("sync")) return {.action = &nothing, .kind = Kind::collective};
  if (op.name == "vote" && op.has("sync")) {
    const Action action = op.has("any")      ? &vote_any
                          : op.has("all")    ? &vote_all
                          : op.has("ballot") ? &vote_ballot
                                             : nullptr;
    return {.action = action, .kind = Kind::collective};
  }
  if (op.name == "ldmatrix" && op.has("m8n8") && op.has("b16"))
    return {.action = op.has("trans") ? &load_matrix<true> : &load_matrix<false>, .kind = Kind::whole_warp};
  if (op.name == "movmatrix" && op.has("trans") && op.has("b16"))
    return {.action = &transpose_matrix, .kind = Kind::whole_warp};
  return {};
}

}  // namespace avid::kernels::ptx
