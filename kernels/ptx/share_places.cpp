// kernels/ptx/share_places.cpp -- see code.h: live ranges, and a linear scan over them
#include <algorithm>
#include <array>

#include "kernels/ptx/code.h"

namespace avid::kernels::ptx {
namespace {

using Index = std::uint32_t;

/// A set of registers, by number.
class Set {
 public:
  explicit Set(std::size_t size) : words_((size + 63) / 64) {}
  void put(Index k) { words_[k / 64] |= std::uint64_t{1} << k % 64; }
  void drop(Index k) { words_[k / 64] &= ~(std::uint64_t{1} << k % 64); }
  bool has(Index k) const { return (words_[k / 64] >> k % 64 & 1) != 0; }
  /// Whether anything was new.
  bool put_all(const Set& other) {
    bool grew = false;
    for (std::size_t w = 0; w < words_.size(); ++w) {
      grew |= (other.words_[w] & ~words_[w]) != 0;
      words_[w] |= other.words_[w];
    }
    return grew;
  }
  template <class F>
  void each(F&& f) const {
    for (std::size_t w = 0; w < words_.size(); ++w)
      for (std::uint64_t bits = words_[w]; bits != 0; bits &= bits - 1)
        f(static_cast<Index>(64 * w + static_cast<std::size_t>(__builtin_ctzll(bits))));
  }

 private:
  std::vector<std::uint64_t> words_;
};

/// Instructions from `begin` to before `end` that run one after another.
struct Straight {
  Index begin = 0, end = 0;
  std::vector<Index> next;  // blocks that may follow
};

std::vector<Straight> straight_runs(const std::vector<Instruction>& code) {
  std::vector<bool> begins(code.size() + 1, false);
  begins[0] = true;
  for (Index k = 0; k < code.size(); ++k)
    if (code[k].kind == Instruction::Kind::branch || code[k].kind == Instruction::Kind::exit) {
      begins[k + 1] = true;
      if (code[k].kind == Instruction::Kind::branch) begins[code[k].target] = true;
    }
  std::vector<Straight> runs;
  std::vector<Index> run_at(code.size() + 1);
  for (Index k = 0; k < code.size(); ++k) {
    if (begins[k]) runs.push_back({.begin = k, .end = k, .next = {}});
    run_at[k] = static_cast<Index>(runs.size() - 1);
    runs.back().end = k + 1;
  }
  for (Straight& run : runs) {
    const Instruction& last = code[run.end - 1];
    const bool goes_on =
        last.guarded || (last.kind != Instruction::Kind::branch && last.kind != Instruction::Kind::exit);
    if (goes_on && run.end < code.size()) run.next.push_back(run_at[run.end]);
    if (last.kind == Instruction::Kind::branch && last.target < code.size()) run.next.push_back(run_at[last.target]);
  }
  return runs;
}

struct Range {
  Place place = 0;
  std::uint8_t width = 1;
  Index first = ~Index{0}, last = 0;
  bool always = false;  // constants and the like: in use from the start to the end
};

}  // namespace

void share_places(Code& code) {
  std::vector<Range> ranges;
  std::vector<Index> range_at(code.num_places);
  for (Place at = 0; at < code.num_places; ++at)
    if (code.width_at[at] != 0) {
      range_at[at] = static_cast<Index>(ranges.size());
      ranges.push_back({.place = at, .width = code.width_at[at]});
    }
  for (const Constant& constant : code.constants) ranges[range_at[constant.place]].always = true;
  for (const SpecialValue& special : code.specials) ranges[range_at[special.place]].always = true;
  const auto reads = [&](const Instruction& i, auto&& f) {
    for (int k = 0; k < i.num_from; ++k)
      if ((i.from[k] & kPredicate) == 0) f(range_at[i.from[k]]);
    for (int k = 0; (i.adds || i.guarded) && k < i.num_to; ++k)  // a guarded write leaves what was there in some lanes
      if ((i.to[k] & kPredicate) == 0) f(range_at[i.to[k]]);
  };
  const auto writes = [&](const Instruction& i, auto&& f) {
    for (int k = 0; k < i.num_to; ++k)
      if ((i.to[k] & kPredicate) == 0) f(range_at[i.to[k]]);
  };

  // Which registers are read later, at the begin of every run: backwards until nothing is added.
  const std::vector<Straight> runs = straight_runs(code.instructions);
  std::vector<Set> live_in(runs.size(), Set(ranges.size()));
  for (bool grew = true; grew;) {
    grew = false;
    for (std::size_t r = runs.size(); r-- > 0;) {
      Set live(ranges.size());
      for (const Index next : runs[r].next) live.put_all(live_in[next]);
      for (Index k = runs[r].end; k-- > runs[r].begin;) {
        writes(code.instructions[k], [&](Index x) { live.drop(x); });
        reads(code.instructions[k], [&](Index x) { live.put(x); });
      }
      grew |= live_in[r].put_all(live);
    }
  }
  const auto touch = [&](Index x, Index k) {
    ranges[x].first = std::min(ranges[x].first, k);
    ranges[x].last = std::max(ranges[x].last, k);
  };
  for (std::size_t r = 0; r < runs.size(); ++r) {
    live_in[r].each([&](Index x) { touch(x, runs[r].begin); });
    for (const Index next : runs[r].next) live_in[next].each([&](Index x) { touch(x, runs[r].end - 1); });
    for (Index k = runs[r].begin; k < runs[r].end; ++k) {
      reads(code.instructions[k], [&](Index x) { touch(x, k); });
      writes(code.instructions[k], [&](Index x) { touch(x, k); });
    }
  }

  // In the order of their first use registers take the place of one whose last use is over.
  const Index end = static_cast<Index>(code.instructions.size());
  for (Range& range : ranges)
    if (range.always) range.first = 0, range.last = end;
  std::vector<Index> order;
  for (Index x = 0; x < ranges.size(); ++x)
    if (ranges[x].first != ~Index{0}) order.push_back(x);
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return ranges[a].first < ranges[b].first; });
  std::vector<Index> ending = order;
  std::stable_sort(ending.begin(), ending.end(), [&](Index a, Index b) { return ranges[a].last < ranges[b].last; });
  std::array<std::vector<Place>, 3> free;  // by width
  std::vector<Place> now(code.num_places, 0);
  Place next_place = 0;
  std::size_t ended = 0;
  for (const Index x : order) {
    for (; ended < ending.size() && ranges[ending[ended]].last < ranges[x].first; ++ended) {
      const Range& over = ranges[ending[ended]];
      free[over.width].push_back(now[over.place]);
    }
    std::vector<Place>& unused = free[ranges[x].width];
    if (!unused.empty()) {
      now[ranges[x].place] = unused.back();
      unused.pop_back();
    } else {
      if (ranges[x].width == 2 && next_place % 2 != 0) free[1].push_back(next_place++);
      now[ranges[x].place] = next_place;
      next_place += ranges[x].width;
    }
  }
  for (std::vector<Place>& operands : code.operands)
    for (Place& place : operands)
      if ((place & kPredicate) == 0) place = now[place];
  for (Constant& constant : code.constants) constant.place = now[constant.place];
  for (SpecialValue& special : code.specials) special.place = now[special.place];
  code.num_places = next_place;
  code.width_at.clear();
}

}  // namespace avid::kernels::ptx
