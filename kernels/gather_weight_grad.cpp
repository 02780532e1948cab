// kernels/gather_weight_grad.cpp -- host side of the weight gradients: which tile, how the positions are cut, workspaces
#include <algorithm>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/weight_grad_plan.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

template <class Elem>
WeightGradSplits weight_grad_splits(const GatherWeightGrad<Elem>& p) {
  WeightGradSplits plan;
  plan.M = std::int64_t{p.t.taps} * p.y.taps * p.x.taps * (p.source[0].chunks + p.source[1].chunks) * kChunk<Elem>;
  const std::int64_t positions = std::int64_t{p.B} * p.t.result * p.y.result * p.x.result;
  if (plan.M == 0 || p.num_columns == 0 || positions == 0) return plan;
  const std::int64_t steps = ceil_div(positions, kWeightGradPositions);
  plan.most_splits = std::max<std::int64_t>(1, steps / 8);
  const int tile = p.tile < kFirstWgmmaTile ? p.tile : kChooseTile;  // wgmma's splits are no more than those of mma
  WeightGradTiles<Elem>::choose(tile, plan.M, p.num_columns, plan.most_splits, [&]<class Tile>() {
    const std::int64_t tiles = ceil_div(plan.M, Tile::BM) * ceil_div(p.num_columns, Tile::BN);
    const std::int64_t splits = std::clamp<std::int64_t>(2 * kBlockSlots / tiles, 1, plan.most_splits);
    plan.steps_per_split = static_cast<int>(ceil_div(steps, splits));
  });
  plan.splits = static_cast<int>(ceil_div(steps, plan.steps_per_split));
  return plan;
}

template <class Elem>
std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<Elem>& p) {
  const WeightGradSplits plan = weight_grad_splits(p);
  return plan.M * p.num_columns * plan.splits * std::int64_t{sizeof(float)};
}

int choose_hopper_weight_grad_tile(const GatherWeightGrad<BFloat16>& p) {
  constexpr std::int64_t kSlots = 2 * kHopperMultiprocessors;
  const WeightGradSplits plan = weight_grad_splits(p);
  int tile = kChooseTile;
  double best =
      WeightGradTiles<BFloat16>::best(plan.M, p.num_columns, plan.most_splits, kSlots).cost * 2 / kHopperMmaRate;
  WgmmaGradTiles::for_each([&]<class Entry>(int i) {
    using Tile = typename Entry::Tile;
    const WgmmaGradPlan w = wgmma_grad_plan<Tile>(p, plan.splits);
    if (w.splits == 0) return;
    const double padding = static_cast<double>(w.taps.pitch) / p.x.result;  // positions that add nothing
    const std::int64_t M = std::int64_t{w.columns} * Tile::kShifts * kChunk<BFloat16>;
    const double cost = padding * Tile::kBlocks *
                        tile_cost(
                            M, p.num_columns, plan.most_splits, Tile::kBlocks * kHopperMultiprocessors, Tile::BM,
                            Tile::BN, Entry::share);
    if (cost < best) tile = kFirstWgmmaTile + i, best = cost;
  });
  return tile;
}

std::int64_t column_sums_splits(std::int64_t num_rows) {
  return std::min<std::int64_t>(2 * kBlockSlots, ceil_div(num_rows, 256));
}

std::int64_t column_sums_workspace_bytes(std::int64_t num_rows, std::int64_t C) {
  return column_sums_splits(num_rows) * C * std::int64_t{sizeof(float)};
}

template WeightGradSplits weight_grad_splits(const GatherWeightGrad<float>&);
template WeightGradSplits weight_grad_splits(const GatherWeightGrad<BFloat16>&);
template std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<float>&);
template std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<BFloat16>&);

}  // namespace avid::kernels
