// kernels/device/graph_memory.h -- the device memory of recorded work
//
// Recorded work is done again at the same addresses, so its memory must not be handed to anybody else in the meantime.
// It is cut from slabs of its own; what is given back while recording is used again by what is recorded later, as in
// the pool of a device. Where the same work ran before under watch, it is known beforehand which blocks there will be
// and how long they last, and a plan puts them into one slab with few gaps. Anything else is cut by best fit, whose
// gaps can cost half as much again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace avid::kernels {

/// A block that some work took, and when: `from` and `until` count what was taken and given back.
struct MemoryUse {
  std::size_t bytes = 0;
  std::int64_t from = 0, until = 0;
};

/// Where the blocks of such work go in one slab.
struct MemoryPlan {
  struct Block {
    std::size_t bytes = 0, offset = 0;
  };
  std::vector<Block> blocks = {};  ///< in the order in which they are taken; empty: not known
  std::size_t slab_bytes = 0;
};

/// Blocks that are in use at the same time do not overlap. The largest is placed first, each as low as it can lie
/// (greedy by size: Pisarchyk and Lee 2020).
MemoryPlan plan_memory(const std::vector<MemoryUse>& uses);

class GraphMemory {
 public:
  /// Where slabs come from: null when the device has not so much.
  struct Source {
    void* (*reserve)(std::size_t bytes) = nullptr;
    void (*release)(void* slab, std::size_t bytes) noexcept = nullptr;
  };
  /// Destroys the memory when its last block has been given back: tensors may outlive the recorded work.
  struct Retire {
    void operator()(GraphMemory* memory) const noexcept;
  };
  using Owner = std::unique_ptr<GraphMemory, Retire>;

  /// With the plan's slab, if the device has it.
  static Owner make(Source source, const MemoryPlan& plan);

  /// A block, 256-byte aligned; null when the device has no more. It lies where the plan has it, if the plan has it.
  void* take(std::size_t bytes);
  /// All slabs together.
  std::size_t reserved_bytes() const;
  /// f(address, bytes) for every slab.
  template <class F>
  void for_each_slab(F&& f) const {
    for (const Slab& slab : slabs_) f(slab.base, slab.bytes);
  }

  /// Whether the block lies in some recorded work's memory; then it is given back.
  static bool give_back(void* block) noexcept;
  /// What all recorded works of this process keep and no block uses now.
  static std::size_t idle_bytes();
  bool holds(const void* block) const;

 private:
  explicit GraphMemory(Source source) : source_(source) {}
  ~GraphMemory();

  struct Piece {
    std::size_t bytes;
    bool free;
  };
  struct Slab {
    std::byte* base;
    std::size_t bytes;
    std::map<std::size_t, Piece> pieces;  // by offset; they cover the slab
  };
  bool add_slab(std::size_t bytes);
  void* cut(Slab& slab, std::map<std::size_t, Piece>::iterator piece, std::size_t bytes);
  void* take_planned(std::size_t bytes);
  void give_back_here(std::byte* block);

  Source source_;
  std::vector<Slab> slabs_;
  std::vector<MemoryPlan::Block> plan_;  // of slabs_[0]
  std::size_t next_planned_ = 0;
  std::size_t blocks_in_use_ = 0;
  bool retired_ = false;
};

}  // namespace avid::kernels
