// kernels/device/wgmma_stages.h -- buffers in shared memory between a warpgroup that loads and those that multiply
//
// kStages stages, each with two barriers. `full`: the loads of a stage are in shared memory, one arrival per loading
// warp, and with tensor copies one that announces their bytes, which count there themselves. `empty`: a stage's
// products are done, one arrival per multiplying warp.
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
  /// One thread, before a __syncthreads. `with_tiles`: a thread begins a tensor copy into every stage.
  AVID_DEVICE void init(int multiplying_warps, bool with_tiles = false) const {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s * sizeof(mbarrier), with_tiles ? 5 : 4);
      mbarrier_init(empty + s * sizeof(mbarrier), multiplying_warps);
    }
    if (with_tiles) fence_proxy_async();
  }
  AVID_DEVICE void wait_full(const StageCursor<kStages>& at) const {
    mbarrier_wait(full + at.stage * sizeof(mbarrier), at.parity);
  }
  AVID_DEVICE void wait_empty(const StageCursor<kStages>& at) const {
    mbarrier_wait(empty + at.stage * sizeof(mbarrier), at.parity);
  }
  /// One thread, once the stage is empty: begins a tensor copy of `bytes` into it. The stage was last read by wgmma, in
  /// the copy's own proxy, so that the wait for `empty` is all that must come before.
  AVID_DEVICE void begin_tile(
      int stage, shared_address to, const TensorMap& map, int column, int row, std::uint32_t bytes) const {
    const shared_address at = full + stage * sizeof(mbarrier);
    mbarrier_arrive_and_expect(at, bytes);
    copy_tile(to, map, column, row, at);
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

/// What a loading warp does: step after step it waits until the stage is empty, begins the copies into it, closes their
/// group, and announces the step whose copies began kLag steps before. So many steps of copies are under way beside the
/// one just begun. With one more the announcement would wait for a stage that is released only after the announced
/// step's products have begun.
template <int kStages>
class StageLoader {
 public:
  static constexpr int kLag = kStages - 2;
  static_assert(kLag >= 1);

  AVID_DEVICE StageLoader(const StageBarriers<kStages>& barriers, int lane) : barriers_(barriers), lane_(lane) {}

  /// For each step s: before(s), then load(s, stage) begins its copies.
  template <class Before, class Load>
  AVID_DEVICE void run(int steps, Before&& before, Load&& load) {
    for (int s = 0; s < steps + kLag; ++s) {
      if (s < steps) {
        before(s);
        barriers_.wait_empty(fill_);
        load(s, fill_.stage);
        fill_.next();
      }
      cp_async_commit();
      if (announced_ > s - kLag) continue;
      cp_async_wait<kLag>();
      announce();
    }
  }
  template <class Load>
  AVID_DEVICE void run(int steps, Load&& load) {
    run(
        steps, [](int) {}, load);
  }
  /// Inside before(s): announces all steps before s.
  AVID_DEVICE void announce_all(int s) {
    cp_async_wait<0>();
    while (announced_ < s) announce();
  }

 private:
  AVID_DEVICE void announce() {
    barriers_.announce(stage_, lane_);
    ++announced_;
    if (++stage_ == kStages) stage_ = 0;
  }

  const StageBarriers<kStages>& barriers_;
  int lane_;
  StageCursor<kStages> fill_{1};
  int announced_ = 0, stage_ = 0;  // steps, and the stage of the next one
};

}  // namespace avid::kernels::AVID_GPU
