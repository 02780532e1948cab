// kernels/gather_weight_grad.cpp -- host side of the weight gradients: tiles, cuts of the positions, workspaces
//
// The rule: the least predicted time, which is
//
//   waves of blocks * (positions of a block + kStart) * multiply-adds of a position / share of the full rate
//   + splits * results * what a partial sum costs
//   + what reading the rows once more costs, where a bias has to be summed apart
//
// over all tiles, each with as many splits as fill one wave, two waves ... of the device's slots. A last wave that is
// hardly filled, or slots that stay empty, cost as much as the products that they leave out.
#include <algorithm>
#include <limits>

#include "kernels/device/weight_grad_plan.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::int64_t kMostWaves = 8;
constexpr std::int64_t kLeastPositions = 256;  // of a split
constexpr double kStart = 96;                  // positions: to fill the stages, and for the end

struct Cut {
  int splits = 0, steps_per_split = 0;
  double cost = std::numeric_limits<double>::infinity();
};

/// The given number of splits, or else the best, for `tiles` tiles, `slots` blocks at a time, of `positions` positions
/// in steps of `step`.
Cut cut_positions(
    std::int64_t given, std::int64_t tiles, std::int64_t positions, int step, std::int64_t most_splits,
    std::int64_t slots, double cost_of_position, double split_cost) {
  const std::int64_t steps = ceil_div(positions, step);
  Cut best;
  for (std::int64_t waves = 1; waves <= kMostWaves; ++waves) {
    const std::int64_t fill = given > 0 ? given : std::clamp<std::int64_t>(waves * slots / tiles, 1, most_splits);
    const std::int64_t steps_per_split = ceil_div(steps, fill), splits = ceil_div(steps, steps_per_split);
    const double rounds = static_cast<double>(ceil_div(tiles * splits, slots));
    const double cost = rounds * (static_cast<double>(steps_per_split * step) + kStart) * cost_of_position +
                        static_cast<double>(splits) * split_cost;
    if (cost < best.cost) best = {static_cast<int>(splits), static_cast<int>(steps_per_split), cost};
  }
  return best;
}

}  // namespace

template <class Elem>
WeightGradPlan plan_weight_grad(const GatherWeightGrad<Elem>& p, const GradDevice& device) {
  WeightGradPlan plan{.tile = p.tile};
  const std::int64_t taps = std::int64_t{p.t.taps} * p.y.taps * p.x.taps, N = p.num_columns;
  const std::int64_t m[2] = {taps * p.source[0].chunks * kChunk<Elem>, taps * p.source[1].chunks * kChunk<Elem>};
  const std::int64_t positions = std::int64_t{p.B} * p.t.result * p.y.result * p.x.result;
  if (m[0] + m[1] == 0 || N == 0 || positions == 0) return plan;
  const std::int64_t most_splits = std::max<std::int64_t>(1, positions / kLeastPositions);
  const double split_cost = static_cast<double>((m[0] + m[1]) * N) * device.split_sum;
  // A partial sum is 8 bytes, written and read; the rows of a bias apart are read once, 16 bytes a chunk.
  const double apart = static_cast<double>(positions * chunks_of<Elem>(N)) * 2 * device.split_sum;
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](int tile, const Cut& cut, int ones, bool packed) {
    const double cost = cut.cost + (p.d_bias != nullptr && ones < 0 ? apart : 0);
    if ((p.tile >= 0 && tile != p.tile) || cost >= least) return;
    least = cost;
    plan = {.tile = tile, .splits = cut.splits, .steps_per_split = cut.steps_per_split, .ones = ones, .packed = packed};
  };
  WeightGradTiles<Elem>::for_each([&]<class Entry>(int i) {
    using Tile = typename Entry::Tile;
    constexpr int kChunks = Tile::BM / kChunk<Elem>;
    const GradChunks of[2] = {grad_chunks(p, 0, kIsPacked<Tile>), grad_chunks(p, 1, kIsPacked<Tile>)};
    if (!words_fit(of[0], kChunks) || !words_fit(of[1], kChunks)) return;
    const std::int64_t tiles =
        (ceil_div(of[0].all(), kChunks) + ceil_div(of[1].all(), kChunks)) * ceil_div(N, Tile::BN);
    const int ones = of[1].all() % kChunks != 0 ? 1 : of[0].all() % kChunks != 0 ? 0 : -1;
    constexpr int kBlocks = kGradBlocks<Tile>;
    const double cost = kBlocks * Tile::BM * Tile::BN / (Entry::share * device.mma_rate);
    consider(
        i,
        cut_positions(
            p.splits, tiles, positions, kWeightGradPositions, most_splits, kBlocks * device.multiprocessors, cost,
            split_cost),
        ones, kIsPacked<Tile>);
  });
  if constexpr (sizeof(Elem) == 2) {
    if (!device.wgmma) return plan;
    WgmmaGradTiles::for_each([&]<class Entry>(int i) {
      using Tile = typename Entry::Tile;
      const WgmmaGradRaster raster = wgmma_grad_raster<Tile>(p);
      if (!raster.fits()) return;
      consider(
          kFirstWgmmaTile + i,
          cut_positions(
              p.splits, ceil_div(raster.columns, Tile::kColumns) * ceil_div(N, Tile::BN), raster.positions,
              kWgmmaGradPositions, most_splits, Tile::kBlocks * device.multiprocessors,
              Tile::kBlocks * Tile::BM * Tile::BN / Entry::share, split_cost),
          raster.columns % Tile::kColumns != 0 ? 1 : -1, false);
    });
  }
  return plan;
}

template <class Elem>
std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<Elem>& p) {
  const std::int64_t m = std::int64_t{p.t.taps} * p.y.taps * p.x.taps * (p.source[0].chunks + p.source[1].chunks);
  std::int64_t splits = 0;
  float bias = 0;
  GatherWeightGrad<Elem> shape = p;
  for (float* d_bias : {&bias, static_cast<float*>(nullptr)})
    for (const GradDevice& device : {kGradAmpere, kGradHopper}) {
      shape.d_bias = d_bias;
      splits = std::max<std::int64_t>(splits, plan_weight_grad(shape, device).splits);
    }
  return std::max(
      (m * kChunk<Elem> + 1) * p.num_columns * splits * std::int64_t{sizeof(float)},
      column_sums_workspace_bytes(std::int64_t{p.B} * p.t.result * p.y.result * p.x.result, p.num_columns));
}

std::int64_t column_sums_splits(std::int64_t num_rows) {
  return std::min<std::int64_t>(2 * kBlockSlots, ceil_div(num_rows, 256));
}

std::int64_t column_sums_workspace_bytes(std::int64_t num_rows, std::int64_t C) {
  return column_sums_splits(num_rows) * C * std::int64_t{sizeof(float)};
}

template WeightGradPlan plan_weight_grad(const GatherWeightGrad<float>&, const GradDevice&);
template WeightGradPlan plan_weight_grad(const GatherWeightGrad<BFloat16>&, const GradDevice&);
template std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<float>&);
template std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<BFloat16>&);

}  // namespace avid::kernels
