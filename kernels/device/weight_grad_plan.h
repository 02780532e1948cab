// kernels/device/weight_grad_plan.h -- how gather_weight_grad_wgmma cuts a weight gradient: columns, positions, splits
//
// Along x, position j meets the source at j*stride - padding + k. So the taps k, k + stride, k + 2 stride ... read one
// and the same row of values, each one position further on: `shifts` of them share a tile in shared memory. A class is
// such a run of taps, named by its first: for 3x3 there is one (0 1 2), for 4x4 with stride 2 there are two (0 2, 1 3).
// A column of the tile is a chunk of a source at a tap in time, a tap in y and a class.
//
// Positions are numbered along rows of `pitch` >= the result's width, so that a shift never leaves its row for the
// values of the next: results past the width are zero, and so adds nothing what lies there.
#pragma once

#include <algorithm>

#include "kernels/device/conv_tiles.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {

inline constexpr int kWgmmaGradPositions = 64;  // per step

/// The runs of up to `shifts` taps along x, and the pitch that they need.
struct ShiftedTaps {
  int shifts = 1, classes = 0, pitch = 0;
};

/// The first tap of a class.
constexpr int first_tap_of_class(int stride, int shifts, int c) { return c / stride * stride * shifts + c % stride; }

constexpr ShiftedTaps shifted_taps(const GatherAxis& x, int shifts) {
  const int run = x.stride * shifts;
  ShiftedTaps s{shifts, x.taps / run * x.stride + std::min(x.taps % run, x.stride), x.result};
  int last = 0;
  for (int c = 0; c < s.classes; ++c) last = std::max(last, first_tap_of_class(x.stride, shifts, c));
  // Rows may overlap where the end of one is all past the source, and the beginning of the next all before it.
  const int most = x.result + shifts - 1;
  const auto overlap = [&](int pitch) {
    return pitch * x.stride - x.padding >= x.source && (most - 1 - pitch) * x.stride - x.padding + last < 0;
  };
  while (s.pitch < most && !overlap(s.pitch)) ++s.pitch;
  return s;
}

struct WgmmaGradPlan {
  ShiftedTaps taps;
  int columns = 0;             ///< of both sources
  std::int64_t positions = 0;  ///< of the raster
  int splits = 0, steps_per_split = 0;
};

/// Splits are as many as fill the device, up to `most_splits`. None when positions pass 2^31.
template <class Tile>
WgmmaGradPlan wgmma_grad_plan(const GatherWeightGrad<BFloat16>& p, std::int64_t most_splits) {
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  WgmmaGradPlan plan;
  plan.taps = shifted_taps(p.x, Tile::kShifts);
  plan.columns = p.t.taps * p.y.taps * plan.taps.classes * (p.source[0].chunks + p.source[1].chunks);
  plan.positions = std::int64_t{p.B} * p.t.result * p.y.result * plan.taps.pitch;
  if (plan.positions >= (std::int64_t{1} << 31) - (1 << 20)) return plan;
  const std::int64_t steps = ceil_div(plan.positions, kWgmmaGradPositions);
  const std::int64_t tiles = ceil_div(plan.columns, Tile::kColumns) * ceil_div(p.num_columns, Tile::BN);
  if (steps == 0 || tiles == 0) return plan;
  const std::int64_t fill = Tile::kBlocks * kHopperMultiprocessors / tiles;
  plan.steps_per_split = static_cast<int>(ceil_div(steps, std::clamp<std::int64_t>(fill, 1, most_splits)));
  plan.splits = static_cast<int>(ceil_div(steps, plan.steps_per_split));
  return plan;
}

}  // namespace avid::kernels
