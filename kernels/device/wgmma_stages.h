// kernels/device/wgmma_stages.h -- buffers in shared memory between a warpgroup that loads and those that multiply
//
// kStages stages, each with two barriers. `full`: the loads of a stage are in shared memory, one arrival per loading
// warp. `empty`: a stage's products are done, one arrival per multiplying warp. The loads of a step are announced some
// steps after their issue, kStages - 2 at most: with one more, the announcement would wait for a stage that is released
// only after the announced step's products have begun.
#pragma once

#include "kernels/device/warpgroup.h"

namespace avid::kernels::AVID_GPU {

/// Counts through the stages. A fresh barrier lets parity 1 through: who fills starts with it, since all are empty.
template <int kStages>
struct StageCursor {
  std::uint32_t parity;
  int stage = 0;
  AVID_DEVICE void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  AVID_DEVICE int before() const { return stage == 0 ? kStages - 1 : stage - 1; }
};

template <int kStages>
struct StageBarriers {
  static constexpr int kCount = 2 * kStages;
  shared_address full, empty;

  AVID_DEVICE explicit StageBarriers(mbarrier* barriers) : full(barriers), empty(full + kStages * sizeof(mbarrier)) {}
  /// One thread, before a __syncthreads.
  AVID_DEVICE void init(int multiplying_warps) const {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s * sizeof(mbarrier), 4);
      mbarrier_init(empty + s * sizeof(mbarrier), multiplying_warps);
    }
  }
  AVID_DEVICE void wait_full(const StageCursor<kStages>& at) const {
    mbarrier_wait(full + at.stage * sizeof(mbarrier), at.parity);
  }
  AVID_DEVICE void wait_empty(const StageCursor<kStages>& at) const {
    mbarrier_wait(empty + at.stage * sizeof(mbarrier), at.parity);
  }
  /// A loading warp's copies into the stage have arrived.
  AVID_DEVICE void announce(int stage, int lane) const {
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) mbarrier_arrive(full + stage * sizeof(mbarrier));
  }
  /// A multiplying warp needs the stage no more.
  AVID_DEVICE void release(int stage, int lane) const {
    if (lane == 0) mbarrier_arrive(empty + stage * sizeof(mbarrier));
  }
};

}  // namespace avid::kernels::AVID_GPU
