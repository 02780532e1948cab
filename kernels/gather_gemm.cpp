// kernels/gather_gemm.cpp -- host side of the gathered products: checks, and which tile (weight gradients:
// gather_weight_grad.cpp)
#include "kernels/gather_gemm.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/halo_raster.h"
#include "kernels/device/mma_cost.h"

namespace avid::kernels {
namespace {

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

namespace {

/// The predicted time of a halo tile in units of tile_cost, for whole multiprocessors: with positions past the edges,
/// and zeros at the ends of passes. Infinite where there is no plan.
template <class Entry>
double halo_cost(const GatherGemm<BFloat16>& p, std::int64_t N) {
  using Tile = typename Entry::Tile;
  const HaloPlan h = halo_plan(p, Tile::needs());
  if (h.pitch == 0) return std::numeric_limits<double>::infinity();
  const std::int64_t blocks =
      (h.products + Tile::kTilesM - 1) / Tile::kTilesM * ((N + Tile::BN - 1) / Tile::BN) * phases_of(p);
  // A block that is alone on its multiprocessor has nothing to hide its loads and its end behind.
  constexpr std::int64_t kSlots = 2 * kHopperMultiprocessors;
  const double load = blocks <= kHopperMultiprocessors
                          ? kAloneOnHopper
                          : 2.0 * static_cast<double>((blocks + kSlots - 1) / kSlots);  // blocks of a multiprocessor
  const double inner = h.y.taps * h.x.taps * h.planes / 2.0;
  return load * Tile::BM * Tile::BN / Entry::share * h.used_entries / inner;
}

bool has_one_phase(const GatherGemm<BFloat16>& p) {
  return !p.adjoint || (p.t.stride == 1 && p.y.stride == 1 && p.x.stride == 1);
}

}  // namespace

int choose_halo_tile(const GatherGemm<BFloat16>& p, std::int64_t M, std::int64_t N) {
  using Gathered = GatherGemmTiles<BFloat16>;
  const int gathered = Gathered::best(M, N).index;
  const auto norm = [&](int tile) {
    return p.norm.S > 0 && norm_blocks(p, tile).count == 0 ? row_norm_cost(M, N) : 0.0;
  };
  int best = kChooseTile;
  double least = norm(gathered);
  Gathered::for_each([&]<class Entry>(int i) {
    using Tile = typename Entry::Tile;
    if (i == gathered) least += mma_cost<Tile>(M, N, gathered_demand<Tile>(p, N), Entry::share);
  });
  HaloMmaTiles::for_each([&]<class Entry>(int i) {
    using Tile = typename Entry::Tile;
    const HaloPlan h = halo_ring_plan(p, halo_needs<Tile>(), Tile::kStages - 1);
    if (h.pitch == 0) return;
    const int tile = kFirstHaloMmaTile + i;
    const double cost = mma_cost<Tile>(M, N, halo_demand<Tile>(p, N, h), Entry::share) + norm(tile);
    if (cost < least) best = tile, least = cost;
  });
  return best;
}

int choose_hopper_tile(const GatherGemm<BFloat16>& p, std::int64_t M, std::int64_t N) {
  using Gathered = GatherGemmTiles<BFloat16>;
  const int inner = p.t.taps * p.y.taps * p.x.taps * (p.source[0].chunks + p.source[1].chunks);
  const auto norm = [&](int candidate) {
    return p.norm.S > 0 && norm_blocks(p, candidate).count == 0 ? hopper_norm_cost(M, N, inner) : 0.0;
  };
  int tile = kChooseTile;
  double least =
      Gathered::best(M, N, 1, 2 * kHopperMultiprocessors).cost * 2 / kHopperMmaRate + norm(Gathered::best(M, N).index);
  const auto consider = [&](int candidate, double cost) {
    cost += norm(candidate);
    if (cost < least) tile = candidate, least = cost;
  };
  WgmmaTiles::for_each([&]<class Entry>(int i) {
    using Tile = typename Entry::Tile;
    consider(kFirstWgmmaTile + i, tile_cost(M, N, 1, kHopperMultiprocessors, Tile::BM, Tile::BN, Entry::share));
  });
  HaloTiles::for_each([&]<class Entry>(int i) { consider(kFirstHaloTile + i, halo_cost<Entry>(p, N)); });
  return tile;
}

NormSumBlocks norm_blocks(const GatherGemm<BFloat16>& p, int tile) {
  NormSumBlocks blocks;
  if (!has_one_phase(p) || p.norm.S <= 0 || p.out[1].chunks > 0) return blocks;
  // rows_per_frame of them in a frame; of a gradient the warps' sums lie beside the coefficients.
  const auto consider = [&](int BM, int BN, int warps, std::size_t room, std::int64_t rows_per_frame) {
    const std::int64_t last_begin = rows_per_frame - std::gcd<std::int64_t>(BM, rows_per_frame);
    const std::int64_t frames = std::min<std::int64_t>(p.norm.F, (last_begin + BM - 1) / rows_per_frame + 1);
    const std::size_t bytes = norm_table_bytes(BN) * (p.norm.x.chunks > 0 ? 1 + warps : 1);
    const int columns = p.out[0].chunks * kChunk<BFloat16>;
    if (columns > BN || frames * bytes > room) return;
    if (p.norm.x.chunks > 0 && BN > 192 && columns <= 192) return;  // their kernel gives a row fewer lanes
    blocks.rows_per_frame = rows_per_frame, blocks.count = (p.norm.F * rows_per_frame + BM - 1) / BM;
    blocks.rows = BM, blocks.frames = static_cast<int>(frames);
  };
  if (tile >= kFirstHaloMmaTile) {
    HaloMmaTiles::with(tile - kFirstHaloMmaTile, [&]<class Tile>() {
      if (p.norm.x.chunks > 0 && !halo_ends_in_norm_grad<Tile>()) return;
      const HaloPlan h = halo_ring_plan(p, halo_needs<Tile>(), Tile::kStages - 1);
      if (Tile::kWarpsN == 1 && h.pitch > 0)
        consider(Tile::BM, Tile::BN, Tile::kWarpsM, halo_norm_room<Tile>(h), p.norm.S);
    });
  } else if (tile >= kFirstHaloTile) {
    HaloTiles::with(tile - kFirstHaloTile, [&]<class Tile>() {
      const HaloPlan h = halo_plan(p, Tile::needs());
      if (h.pitch == 0 || (p.norm.x.chunks > 0 && !Tile::kEndsInNormGrad)) return;
      // Of patches all rows are results, else all are positions.
      consider(Tile::BM, Tile::BN, 4, Tile::kNormRoom, h.patches > 0 ? p.norm.S : std::int64_t{h.rows} * h.pitch);
    });
  } else if (tile >= kFirstWgmmaTile) {
    WgmmaTiles::with(tile - kFirstWgmmaTile, [&]<class Tile>() {
      consider(Tile::BM, Tile::BN, 4 * Tile::kMultiplying, Tile::kNormRoom, p.norm.S);
    });
  } else {
    GatherGemmTiles<BFloat16>::with(tile, [&]<class Tile>() {
      if (Tile::kWarpsN == 1) consider(Tile::BM, Tile::BN, Tile::kWarpsM, gather_norm_room<Tile>(), p.norm.S);
    });
  }
  return blocks;
}

int layer_norm_grad_rows(const GatherGemm<BFloat16>& p, int tile) {
  if (!has_one_phase(p) || p.out[1].chunks > 0 || tile >= kFirstHaloTile) return 0;
  int rows = 0;
  const auto consider = [&](int BM, int BN, std::size_t room) {
    if (p.out[0].chunks * kChunk<BFloat16> <= BN && BN * sizeof(float) <= room) rows = BM;
  };
  if (tile >= kFirstWgmmaTile) {
    WgmmaTiles::with(tile - kFirstWgmmaTile, [&]<class Tile>() { consider(Tile::BM, Tile::BN, Tile::kNormRoom); });
  } else {
    GatherGemmTiles<BFloat16>::with(tile, [&]<class Tile>() {
      if (Tile::kWarpsN == 1) consider(Tile::BM, Tile::BN, gather_norm_room<Tile>());
    });
  }
  return rows;
}

}  // namespace avid::kernels
