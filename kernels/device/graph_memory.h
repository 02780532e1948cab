// kernels/device/graph_memory.h -- the device memory of recorded work
//
// Recorded work is done again at the same addresses, so its memory must not be handed to anybody else in the meantime.
// It is cut from slabs of its own, by best fit; what is given back while recording is used again by what is recorded
// later, as in the pool of a device.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

namespace avid::kernels {

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

  /// With one slab of `first_bytes`, if the device has it.
  static Owner make(Source source, std::size_t first_bytes);

  /// A block, 256-byte aligned; null when the device has no more.
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
  void give_back_here(std::byte* block);

  Source source_;
  std::vector<Slab> slabs_;
  std::size_t blocks_in_use_ = 0;
  bool retired_ = false;
};

}  // namespace avid::kernels
