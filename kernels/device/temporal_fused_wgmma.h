// kernels/device/temporal_fused_wgmma.h -- how the fused kernels of temporal attention multiply rows with weights on
// wgmma
//
// Rows and weights lie in planes of one chunk (8 channels), rows 16 bytes apart, so that 8 rows of a chunk are 128
// bytes: no swizzle. A product takes 64 rows, of which warp w gets rows 16 w .. 16 w + 15, in the registers that
// mma.sync would leave them in.
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/device/warpgroup.h"

namespace avid::kernels::AVID_GPU {

/// Rows of kChunks chunks as wgmma takes them; kGap bytes between their planes.
template <int kNumRows, int kNumChunks, int kGap>
struct PlanesOf {
  static constexpr int kRows = kNumRows, kChunks = kNumChunks;
  static constexpr int kPlane = kNumRows * 16 + kGap;  ///< bytes
  static constexpr int kElements = kNumChunks * kPlane / 2;
};

/// Begins d = 64 rows times Weights::kRows rows of weights. If these have an odd number of chunks there is a plane of
/// zeros in front of the rows.
template <class Shape, class Weights>
AVID_DEVICE void begin_projection(float (&d)[Weights::kRows / 2], const bf16* rows, const bf16* weights) {
  constexpr std::uint64_t kRowStep = Shape::RowPlanes::kPlane / 16, kWeightStep = Weights::kPlane / 16;
  const std::uint64_t a = plain_tile(shared_address(rows), 128), b = plain_tile(shared_address(weights), 128);
  wgmma_fence();
#pragma unroll
  for (int s = 0; s < Shape::kSteps; ++s) {
    std::uint64_t step_a = a + 2 * s * kRowStep + (kRowStep << kLeadingShift);
    std::uint64_t step_b = b + 2 * s * kWeightStep + (kWeightStep << kLeadingShift);
    if (2 * s + 1 == Weights::kChunks) {
      // Zeros and the last chunk meet the last two of the weights. The first of these is finite if the sums are.
      step_a = a - kRowStep + ((1 + 2 * s) * kRowStep << kLeadingShift);
      step_b -= kWeightStep;
    }
    if (s == 0)
      wgmma_bf16_first<Weights::kRows>(d, step_a, step_b);
    else
      wgmma_bf16<Weights::kRows>(d, step_a, step_b);
  }
  wgmma_commit();
}

/// Until the product begun last is done.
template <int R>
AVID_DEVICE void wait_for(float (&d)[R]) {
  wgmma_wait<0>();
  wgmma_settle(d);
}

/// Tile j, half, of a product's sums.
template <int R>
AVID_DEVICE float2 pair_of(const float (&d)[R], int j, int half) {
  return make_float2(d[4 * j + 2 * half], d[4 * j + 2 * half + 1]);
}

}  // namespace avid::kernels::AVID_GPU
