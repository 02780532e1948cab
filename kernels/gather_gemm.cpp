// kernels/gather_gemm.cpp -- host side of the gathered products: checks, sizes of workspaces
#include "kernels/gather_gemm.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/halo_raster.h"
#include "kernels/device/weight_grad_plan.h"

namespace avid::kernels {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::int64_t kMaxInt = std::numeric_limits<int>::max();
constexpr std::int64_t kMaxTaps[3] = {9, 11, 11};  // bits of Window::inside (device/gather_geometry.h)

}  // namespace

void check_chunk_rows(const char* op, const char* name, const void* data, std::int64_t pitch, std::size_t elem_size) {
  const std::size_t pitch_bytes = static_cast<std::size_t>(pitch) * elem_size;
  if (reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && pitch_bytes % 16 == 0) return;
  throw GpuError(
      std::string(op) + ": " + name + ": expected rows that start at 16-byte boundaries, got a pitch of " +
      std::to_string(pitch_bytes) + " bytes at an address of " +
      std::to_string(reinterpret_cast<std::uintptr_t>(data) % 16) + " modulo 16 | clone() the tensor");
}

GatherAxis gather_axis(const char* op, const Conv3dSize& s, int d, bool adjoint) {
  const auto i = static_cast<std::size_t>(d);
  const auto fail = [&](const char* what, std::int64_t limit, std::int64_t got) {
    throw GpuError(
        std::string(op) + ": " + what + " in dimension " + "tyx"[d] + ": at most " + std::to_string(limit) +
        " on a device, got " + std::to_string(got));
  };
  if (s.kernel[i] > kMaxTaps[i]) fail("kernel", kMaxTaps[i], s.kernel[i]);
  constexpr std::int64_t kMaxStep = 1 << 15, kMaxPositions = kMaxInt - (1 << 20);  // coordinates run past the ends
  for (std::int64_t step : {s.stride[i], s.padding[i]})
    if (step > kMaxStep) fail("stride or padding", kMaxStep, step);
  for (std::int64_t positions : {s.in_positions(), s.out_positions()})
    if (positions > kMaxPositions) fail("positions", kMaxPositions, positions);
  const auto narrow = [](std::int64_t v) { return static_cast<int>(v); };
  return {
      .source = narrow(adjoint ? s.out[i] : s.in[i]),
      .result = narrow(adjoint ? s.in[i] : s.out[i]),
      .taps = narrow(s.kernel[i]),
      .stride = narrow(s.stride[i]),
      .padding = narrow(s.padding[i])};
}

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

namespace {

/// The predicted time of a halo tile relative to that of its results at full rate: positions past the edges, and zeros
/// at the end of each pass. Infinite where there is no plan.
template <class Entry>
double halo_cost(const GatherGemm<BFloat16>& p, const HaloNeeds& needs, std::int64_t N, std::int64_t slots) {
  const HaloPlan h = halo_plan(p, needs);
  if (h.pitch == 0) return std::numeric_limits<double>::infinity();
  const double inner = p.y.taps * p.x.taps * (p.source[0].chunks + p.source[1].chunks) / 2.0;
  return tile_cost(h.M, N, 1, slots, Entry::Tile::BM, Entry::Tile::BN, Entry::share) * h.entries / inner;
}

}  // namespace

int choose_halo_tile(const GatherGemm<BFloat16>& p, std::int64_t M, std::int64_t N) {
  int tile = kChooseTile;
  double best = GatherGemmTiles<BFloat16>::best(M, N).cost;
  HaloMmaTiles::for_each([&]<class Entry>(int i) {
    const double cost = halo_cost<Entry>(p, halo_needs<typename Entry::Tile>(), N, kBlockSlots);
    if (cost < best) tile = kFirstHaloMmaTile + i, best = cost;
  });
  return tile;
}

int choose_hopper_tile(const GatherGemm<BFloat16>& p, std::int64_t M, std::int64_t N) {
  constexpr std::int64_t kSlots = 2 * kHopperMultiprocessors;  // of blocks that share a multiprocessor
  int tile = kChooseTile;
  double best = GatherGemmTiles<BFloat16>::best(M, N, 1, kSlots).cost * 2 / kHopperMmaRate;
  const auto consider = [&](int candidate, double cost) {
    if (cost < best) tile = candidate, best = cost;
  };
  const BestTile gathered = WgmmaTiles::best(M, N, 1, kHopperMultiprocessors);
  consider(kFirstWgmmaTile + gathered.index, gathered.cost);
  HaloTiles::for_each([&]<class Entry>(int i) {
    consider(kFirstHaloTile + i, 2 * halo_cost<Entry>(p, Entry::Tile::needs(), N, kSlots));
  });
  return tile;
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

int norm_frames(const GatherGemm<BFloat16>& p, int tile) {
  int frames = 0;
  // BM consecutive positions, rows_per_frame of them in a frame.
  const auto consider = [&](int BM, int BN, std::size_t room, std::int64_t rows_per_frame) {
    if (p.norm.S <= 0 || p.out[1].chunks > 0 || p.out[0].chunks * kChunk < BFloat16 >> BN) return;
    const std::int64_t most = std::min<std::int64_t>(p.norm.F, (BM - 2) / rows_per_frame + 2);
    if (most * norm_table_bytes(BN) <= room) frames = static_cast<int>(most);
  };
  if (tile >= kFirstHaloMmaTile) {
    HaloMmaTiles::with(tile - kFirstHaloMmaTile, [&]<class Tile>() {
      const HaloNeeds needs = halo_needs<Tile>();
      const HaloPlan h = halo_plan(p, needs);
      if (h.pitch > 0 && Tile::kWarpsN == 1)
        consider(Tile::BM, Tile::BN, needs.other_bytes, std::int64_t{h.rows} * h.pitch);
    });
  } else if (tile >= kFirstHaloTile) {
    HaloTiles::with(tile - kFirstHaloTile, [&]<class Tile>() {
      const HaloPlan h = halo_plan(p, Tile::needs());
      if (h.pitch > 0) consider(Tile::BM, Tile::BN, Tile::kNormRoom, std::int64_t{h.rows} * h.pitch);
    });
  } else if (tile >= kFirstWgmmaTile) {
    WgmmaTiles::with(
        tile - kFirstWgmmaTile, [&]<class Tile>() { consider(Tile::BM, Tile::BN, Tile::kNormRoom, p.norm.S); });
  } else {
    GatherGemmTiles<BFloat16>::with(tile, [&]<class Tile>() {
      if (Tile::kWarpsN == 1) consider(Tile::BM, Tile::BN, gather_norm_room<Tile>(), p.norm.S);
    });
  }
  return frames;
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
