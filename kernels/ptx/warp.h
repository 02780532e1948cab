// kernels/ptx/warp.h -- 32 threads, their registers and the block they belong to
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/ptx/code.h"

namespace avid::kernels::ptx {

inline constexpr int kLanes = 32;
inline constexpr std::uint32_t kAllLanes = 0xffffffffu;

/// What a register of a type is kept in: narrow ones lie in the low bits of a word, whose others mean nothing.
template <class T>
using Kept = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

template <class T>
T value_of(Kept<T> kept) {
  if constexpr (sizeof(T) >= 4)
    return std::bit_cast<T>(kept);
  else
    return static_cast<T>(kept);
}
template <class T>
Kept<T> kept_of(T value) {
  if constexpr (sizeof(T) == 8)
    return std::bit_cast<std::uint64_t>(value);
  else if constexpr (sizeof(T) == 4)
    return std::bit_cast<std::uint32_t>(value);
  else
    return static_cast<std::make_unsigned_t<T>>(value);
}

/// A copy that was begun and has not landed.
struct PendingCopy {
  std::uint32_t to = 0;  // in shared memory
  const unsigned char* from = nullptr;
  std::uint32_t bytes = 0, read_bytes = 0;
  std::uint32_t group = 0;
};

/// The copies of one thread.
struct ThreadCopies {
  std::deque<PendingCopy> pending;
  std::uint32_t open_group = 0;  // the copies since the last commit belong to it
};

struct Block {
  const Machine* machine = nullptr;
  const Kernel* kernel = nullptr;
  Extent grid, size, index;
  std::uint32_t num_threads = 0;
  std::vector<unsigned char> shared;  // static arrays, then the launch's
  const std::byte* parameters = nullptr;
  std::vector<unsigned char> local;  // of all threads
  std::uint32_t num_at_barrier = 0, num_alive = 0;
  bool progress = false;  // whether a warp did anything since the last look
};

class Warp {
 public:
  /// Lanes that run along one path.
  struct Path {
    enum class State : std::uint8_t { ready, at_collective, at_barrier, looking };
    std::uint32_t at = 0, lanes = 0;
    State state = State::ready;
  };

  /// Begins warp `index` of the block; keeps its memory from block to block.
  void begin(Block& block, std::uint32_t index);
  /// Runs until no path can go on without other warps.
  void run();
  bool ended() const { return paths_.empty(); }
  void release_barrier();
  const std::vector<Path>& paths() const { return paths_; }

  // ---- for the actions ----
  std::uint32_t mask() const { return mask_; }
  Block& block() { return *block_; }
  template <class T>
  Kept<T>* lanes(Place place) {
    return reinterpret_cast<Kept<T>*>(file_.data() + std::size_t{place} * kLanes);
  }
  std::uint32_t& predicate(Place place) { return predicates_[place & ~kPredicate]; }
  void set_predicate(Place place, std::uint32_t lanes) {
    predicate(place) = (predicate(place) & ~mask_) | (lanes & mask_);
  }
  template <class T>
  T value(Place place, int lane) {
    return value_of<T>(lanes<T>(place)[lane]);
  }
  /// The value of the first lane that takes part.
  template <class T>
  T uniform(Place place) {
    return value<T>(place, std::countr_zero(mask_));
  }
  /// Where a lane's access goes, in its space: the first source and the offset behind it.
  std::uint64_t address(const Instruction& i, int lane) {
    const auto offset = static_cast<std::uint64_t>(i.number);
    if ((i.flags & kWideAddress) != 0) return value<std::uint64_t>(i.from[0], lane) + offset;
    return (value<std::uint32_t>(i.from[0], lane) + offset) & 0xffffffff;
  }
  std::uint32_t thread_of(int lane) const { return index_ * kLanes + static_cast<std::uint32_t>(lane); }
  ThreadCopies& copies(int lane) { return copies_[static_cast<std::size_t>(lane)]; }
  /// Host memory of these bytes in a space: 'g' global or device memory, 's' shared, 'l' local, 'p' parameters, ' '
  /// generic. Throws PtxError when they are not all there, or misaligned.
  unsigned char* memory(char space, std::uint64_t address, std::uint32_t bytes, int lane, bool writes) {
    if (space == 's' && (address & (bytes - 1)) == 0 && address + bytes <= shared_bytes_) return shared_ + address;
    return any_memory(space, address, bytes, lane, writes);
  }
  /// Products of the warpgroup are under way from their issue to the wait that covers them. Until then their sums may
  /// be moved (nvcc renames registers so) and be summed on; whatever else reads them is an error.
  void begin_product(const Instruction& instruction);
  void close_products() { ++open_products_; }
  void wait_products(std::uint32_t groups_still);
  /// The first failed look of an mbarrier gives other warps their turn.
  void look_failed() { look_failed_ = true; }
  /// Throws PtxError: kernel, block, thread, source, PTX line, what.
  [[noreturn]] void fail(const std::string& what, int lane = -1) const;
  /// "block (0,0,0) threads 0-31 at line 12" for a report of a deadlock.
  std::string whereabouts() const;

 private:
  unsigned char* any_memory(char space, std::uint64_t address, std::uint32_t bytes, int lane, bool writes);
  void check_products(const Instruction& instruction);
  bool choose();
  void run_path();
  void set_special(const SpecialValue& special);

  Block* block_ = nullptr;
  const Code* code_ = nullptr;
  std::uint32_t index_ = 0, mask_ = 0, existing_ = 0;
  const Instruction* instruction_ = nullptr;
  std::vector<std::uint32_t> file_;  // words and, two of them, wide words: -fno-strict-aliasing
  std::vector<std::uint32_t> predicates_;
  std::vector<Path> paths_;
  std::size_t current_ = 0;
  std::array<ThreadCopies, kLanes> copies_;
  bool look_failed_ = false;
  std::vector<std::uint32_t> product_at_;  // by place: the group of the product whose sum is to come; 0: none
  std::uint32_t open_products_ = 1;        // the group of the products since the last commit
  bool has_products_ = false;
  unsigned char* shared_ = nullptr;  // the block's
  std::uint64_t shared_bytes_ = 0;
};

/// Copies of these threads that are still under way land.
void finish_copies(Warp& warp, std::uint32_t lanes);  // asynchronous.cpp

/// For each lane that takes part: destination = f(lane).
template <class T, class F>
inline void for_lanes(Warp& warp, Place to, F&& f) {
  Kept<T>* out = warp.lanes<T>(to);
  const std::uint32_t mask = warp.mask();
  if (mask == kAllLanes) {
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = kept_of<T>(f(lane));
  } else {
    for (int lane = 0; lane < kLanes; ++lane)
      if (mask >> lane & 1) out[lane] = kept_of<T>(f(lane));
  }
}

}  // namespace avid::kernels::ptx
