// kernels/sim/warpgroup.h -- wgmma: matrix products of four warps, from shared memory, behind the program's back
//
// A product takes effect at some moment between its issue and the wait that covers it. So its operands, A's registers
// among them, are read at the issue and compared at the wait: they must not have changed. The accumulators leave the
// program's registers at the issue (NaN stays) and come back at the wait. Each warp computes its 16 of the 64 rows by
// itself.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

struct Thread;

/// D[64][n] (+)= A[64][16] B[n][16]^T; operands through matrix descriptors (docs/simulator.md), or A in registers.
struct WgmmaOperands {
  float* d;  ///< n/2 registers of a lane
  std::uint64_t a, b;
  int n;
  bool adds;        ///< to what D held
  bool transposed;  ///< the tiles hold A^T and B^T: eight neighbours in memory belong to eight rows of A, or of B
  Site site;
  const std::uint32_t* fragment = nullptr;  ///< four registers of a lane, in place of the tile a, as mma has A
};

class Warpgroups {
 public:
  void begin_block();
  /// Empty, or what a block left unfinished.
  std::string unfinished() const;

  void issue(std::uint32_t warp, const WgmmaOperands* const* lane);
  void fence(std::uint32_t warp);
  void commit(std::uint32_t warp);
  void wait(std::uint32_t warp, std::uint32_t keep, const Site& site);

  /// A cp.async of the thread delivered here: wgmma may read it after the thread's next fence_proxy_async.
  void note_generic_write(std::size_t offset, unsigned bytes, const Thread& thread);
  /// A thread whose cp.async wrote some of these bytes and that has not passed a fence_proxy_async since, or -1.
  int writer_without_proxy_fence(std::size_t offset, unsigned bytes) const;

 private:
  /// The part of D that a warp holds, while products into it are under way.
  struct Accumulator {
    std::array<float*, 32> registers;  ///< of the lanes; lane 0's identifies it
    int n, num_pending;
    std::vector<float> value;  ///< [16][n]
  };
  /// Where a product's operands are.
  struct Sources {
    std::uint64_t a, b;
    bool transposed;
    std::array<const std::uint32_t*, 32> fragments;  ///< of the lanes, or null: `a` it is
  };
  struct Product {
    Accumulator* accumulator;
    Sources sources;
    std::vector<std::uint16_t> operands;  ///< [16 + n][16] as read at the issue
    Site site;
  };
  struct Warp {
    bool registers_ordered = false;  ///< by wgmma_fence
    bool fragment_ordered = false;   ///< likewise, since the last product with A in registers
    std::uint32_t num_issued = 0, num_done = 0;
    std::deque<Product> products;      ///< from num_done on
    std::deque<std::uint32_t> groups;  ///< num_issued at each commit
    std::vector<std::unique_ptr<Accumulator>> accumulators;
  };
  struct Issued {
    std::uint64_t a, b;
    int n;
    bool adds, transposed, has_fragment;
    Site site;
  };

  Warp& warp(std::uint32_t number);
  std::vector<std::uint16_t> read_operands(std::uint32_t warp, const Sources& sources, int n, Site site);
  Accumulator& accumulator_of(std::uint32_t warp, const WgmmaOperands* const* lane);
  void finish_oldest(std::uint32_t warp, const Site& site);

  std::vector<Warp> warps_;                    ///< empty in a block without wgmma
  std::vector<std::vector<Issued>> issued_;    ///< per warpgroup, in order
  std::vector<std::uint32_t> generic_writer_;  ///< per 16 bytes of shared memory: thread + 1, and its proxy fences
  bool any_generic_write_ = false;
};

}  // namespace avid::kernels::simulator
