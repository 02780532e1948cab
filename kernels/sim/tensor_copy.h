// kernels/sim/tensor_copy.h -- tensor copies (TMA): a tile of a matrix comes into shared memory, behind all threads
//
// One thread begins a copy and goes on. The bytes arrive at some time after that and count at an mbarrier, whose phase
// is complete when all arrivals and all announced bytes came. So the tile becomes NaN at the issue, and arrives either
// at once or as late as the block allows: when no thread can go on without it (Engine::choose). Copies need not arrive
// in the order in which they were begun.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/device/tensor_map.h"
#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

class TensorCopies {
 public:
  void begin_block() { under_way_.clear(); }
  void begin(
      std::uint32_t to, const MatrixTiles& map, std::int64_t column, std::int64_t row, std::uint32_t barrier,
      Site site);
  /// No thread can go on: one of the copies arrives. False when none is under way.
  bool let_one_arrive();
  /// Empty, or what is still under way.
  std::string unfinished() const;

 private:
  struct Copy {
    std::uint32_t to, bytes;  ///< in shared memory
    MatrixTiles map;
    std::int64_t column, row;  ///< of the tile's first element
    std::uint32_t barrier;
    Site site;
  };
  void arrive(const Copy& copy);

  std::vector<Copy> under_way_;
};

}  // namespace avid::kernels::simulator
