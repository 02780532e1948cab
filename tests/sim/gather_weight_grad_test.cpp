// tests/sim/gather_weight_grad_test.cpp -- weight and bias gradients of all devices: the rule, and sums over many
// positions
#include <array>
#include <cmath>
#include <string>
#include <tuple>

#include "kernels/device/conv_products.h"
#include "kernels/device/weight_grad_plan.h"
#include "tests/sim/arch.h"
#include "tests/sim/gather_conv.h"
#include "tests/sim/gather_line.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::GatherWeightGrad;
using kernels::GradDevice;
using kernels::kFirstWgmmaTile;
using kernels::kGradAmpere;
using kernels::kGradHopper;
using kernels::WeightGradPlan;
using kernels::WeightGradTiles;
using kernels::WgmmaGradTiles;

/// k x k windows in planes of 64 clips of 8 frames.
GatherWeightGrad<bf16> layer(int HW, int k, int I, int I2, int O) {
  kernels::Conv3dSize s{.B = 64, .in = {8, HW, HW}, .I = I, .I2 = I2, .O = O, .kernel = {1, k, k}};
  s.padding = {0, (k - 1) / 2, (k - 1) / 2};
  s.out = s.in;
  return kernels::conv_products::weight_grad<bf16>("test", s, {}, {}, {}, {}, nullptr);
}

/// Blocks of a plan, and how many of them run at a time.
struct Grid {
  std::int64_t blocks = 0, slots = 1;
  double filled() const { return static_cast<double>(blocks) / ((blocks + slots - 1) / slots * slots); }
};
Grid grid_of(const GatherWeightGrad<bf16>& p, const WeightGradPlan& plan, const GradDevice& device) {
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  Grid grid;
  if (plan.tile >= kFirstWgmmaTile)
    WgmmaGradTiles::with(plan.tile - kFirstWgmmaTile, [&]<class Tile>() {
      grid.blocks = ceil_div(kernels::wgmma_grad_raster<Tile>(p).columns, Tile::kColumns);
      grid.blocks *= ceil_div(p.num_columns, Tile::BN) * plan.splits;
      grid.slots = Tile::kBlocks * device.multiprocessors;
    });
  else
    WeightGradTiles<bf16>::with(plan.tile, [&]<class Tile>() {
      for (int s = 0; s < 2; ++s)
        grid.blocks += ceil_div(kernels::grad_chunks(p, s, kernels::kIsPacked<Tile>).all(), Tile::BM / 8);
      grid.blocks *= ceil_div(p.num_columns, Tile::BN) * plan.splits;
      grid.slots = kernels::kGradBlocks<Tile> * device.multiprocessors;
    });
  return grid;
}

/// The sums of `rows` positive values between 1/50 and 50, with a tile; relative to those in f64.
template <class Elem>
double worst_bias_error(std::int64_t rows, int tile, int splits) {
  constexpr std::int64_t kChannels = 5, N = 11;
  auto d_out = DeviceRows<Elem>::random(rows, N, 1);
  std::vector<double> expected(N);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t n = 0; n < N; ++n) {
      d_out.at(r)[n] = Elem(std::exp(4.0f * static_cast<float>(d_out.at(r)[n])));
      expected[static_cast<std::size_t>(n)] += static_cast<double>(static_cast<float>(d_out.at(r)[n]));
    }
  const auto x = DeviceRows<Elem>::random(rows, kChannels, 2);
  DeviceRows<float> d_w(N, kChannels);
  auto d_bias = DeviceRows<float>::poisoned(1, N);
  const kernels::LinearSize size{.P = rows, .I = kChannels, .O = N};
  auto p = kernels::conv_products::weight_grad<Elem>(
      "test", kernels::conv_products::of_linear(size), d_out.rows(), x.rows(), {}, d_w.rows(), nullptr, d_bias.at(0));
  p.tile = tile, p.splits = splits;
  Workspace space(kernels::gather_weight_grad_workspace_bytes(p));
  p.workspace = static_cast<float*>(space.data());
  kernels::gather_weight_grad<Sim>(Stream{}, p);
  double worst = 0;
  for (std::size_t n = 0; n < N; ++n) {
    const double error = std::abs(static_cast<double>(d_bias.at(0)[n]) / expected[n] - 1.0);
    worst = error <= worst ? worst : error;  // NaN stays
  }
  return worst;
}

/// The place of the tile that packs last chunks.
int packed_tile() {
  int place = -1;
  WeightGradTiles<bf16>::for_each([&]<class Entry>(int i) {
    if (kernels::kIsPacked<typename Entry::Tile>) place = i;
  });
  return place;
}

/// The kernels that the gradients of a layer launch, the bias among them if asked for.
template <class Elem = bf16>
std::vector<std::string> kernels_of(kernels::Conv3dSize s, bool bias) {
  // Nothing is run: no more than the addresses count.
  alignas(16) static float memory[64];
  Elem* rows = reinterpret_cast<Elem*>(memory);
  const auto pitch = [](std::int64_t channels) { return kernels::chunks_of<Elem>(channels) * kernels::kChunk<Elem>; };
  std::vector<std::string> names;
  for (const ListedLaunch& launch : launches_of([&] {
         kernels::conv3d_bwd_weight<Sim, Elem>(
             Stream{}, s, {rows, pitch(s.O)}, {rows, pitch(s.I)}, {}, {memory, s.I}, bias ? memory : nullptr, memory);
       }))
    names.push_back(launch.kernel.substr(0, launch.kernel.find('<')));
  return names;
}

}  // namespace

TEST_CASE("gather_weight_grad/column_sums/of no columns launch nothing") {
  if (!lists_launches()) return;
  CHECK(launches_of([] { kernels::column_sums<Sim, float>(Stream{}, 0, 0, {}, nullptr, nullptr); }).empty());
}

TEST_CASE("gather_weight_grad/launches/the kind of device chooses, and a bias takes no kernel where there is room") {
  if (!lists_launches()) return;
  using Names = std::vector<std::string>;
  kernels::Conv3dSize s{.B = 64, .in = {8, 64, 64}, .I = 90, .O = 90, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  s.out = s.in;
  CHECK(kernels_of(s, false) == Names{"gather_weight_grad_kernel", "add_splits_kernel"});
  CHECK(kernels_of(s, true) == kernels_of(s, false));
  CHECK(kernels_of<float>(s, true) == Names{"gather_weight_grad_kernel", "add_splits_kernel"});
  kernels::Conv3dSize exact = s;  // 16 taps of 184 channels are 23 tiles of 128
  exact.I = exact.O = 180, exact.kernel = {1, 4, 4}, exact.stride = {1, 2, 2}, exact.out = {8, 32, 32};
  CHECK(kernels_of(exact, false) == Names{"gather_weight_grad_kernel", "add_splits_kernel"});
  CHECK(
      kernels_of(exact, true) ==
      Names{"gather_weight_grad_kernel", "add_splits_kernel", "column_sums_kernel", "sum_rows_kernel"});
  const OnArch arch(90);
  CHECK(kernels_of(s, false) == Names{"gather_weight_grad_wgmma_kernel", "add_splits_kernel"});
  CHECK(kernels_of(s, true) == kernels_of(s, false));
}

TEST_CASE("gather_weight_grad/bias/sums over many positions are as near as sums in f32 can be") {
  // One split of 40,000 positions, as many as any of a real layer. A tensor core that cut one long sum would lose 1e-4.
  CHECK(worst_bias_error<bf16>(40000, 1, 1) < 2e-6);
  CHECK(worst_bias_error<bf16>(40000, 3, 1) < 2e-6);
  CHECK(worst_bias_error<bf16>(40000, 7, 1) < 3e-5);  // no registers for sums beside those of the tensor cores
  CHECK(worst_bias_error<bf16>(40000, packed_tile(), 1) < 2e-6);
  CHECK(worst_bias_error<float>(5000, 0, 1) < 1e-6);
  CHECK(worst_bias_error<bf16>(40000, kernels::kChooseTile, 0) < 2e-6);
  if (!can_be_arch(90)) return;
  const OnArch arch(90);
  CHECK(worst_bias_error<bf16>(40000, kFirstWgmmaTile, 1) < 2e-6);
  CHECK(worst_bias_error<bf16>(40000, kernels::kChooseTile, 0) < 2e-6);
}

TEST_CASE("gather_weight_grad/bias/a tile without a column to spare leaves it to a pass of its own") {
  // Three taps of 32 and 64 channels: M of tile 0 is 32.
  auto p = layer(8, 1, 32, 0, 16);
  p.tile = 0;
  CHECK(kernels::plan_weight_grad(p, kGradAmpere).ones == -1);
  CHECK(kernels::plan_weight_grad(layer(8, 1, 40, 0, 16), kGradAmpere).ones == 0);
  p = layer(8, 1, 40, 32, 16);
  p.tile = 0;
  CHECK(kernels::plan_weight_grad(p, kGradAmpere).ones == 0);
  p = layer(8, 1, 32, 40, 16);
  p.tile = 0;
  CHECK(kernels::plan_weight_grad(p, kGradAmpere).ones == 1);
  // 192 channels are a whole number of columns of what would be the fastest tile: a bias prefers another one.
  float bias = 0;
  for (const auto& [HW, O, device] : {std::tuple{16, 360, kGradAmpere}, {32, 180, kGradHopper}}) {
    p = layer(HW, 1, 192, 0, O);
    CHECK(kernels::plan_weight_grad(p, device).ones == -1);
    p.d_bias = &bias;
    CHECK(kernels::plan_weight_grad(p, device).ones >= 0);
  }
  for_each_order([] {
    for (const auto& [I, I2] : {std::array<std::int64_t, 2>{32, 64}, {30, 0}, {40, 32}, {32, 40}})
      check_weight_grad<bf16>({.W = 90, .I = I, .I2 = I2, .N = 20}, 0);
  });
  check_weight_grad<float>({.W = 90, .I = 32, .I2 = 0, .N = 18}, 0);
}

TEST_CASE("gather_weight_grad/packed/words of the last chunks of all taps lie side by side") {
  // Three taps: none to three words of each, alone and beside a second source, and at the end of a tile of 52 chunks.
  const int tile = packed_tile();
  for (const auto& [I, I2] :
       {std::array<std::int64_t, 2>{1, 0},
        {2, 7},
        {3, 90},
        {6, 8},
        {90, 3},
        {136, 0},
        {137, 0},
        {139, 5},
        {141, 1},
        {142, 142},
        {143, 0}})
    check_weight_grad<bf16>({.W = 70, .I = I, .I2 = I2, .N = 20}, tile);
  for_each_order([&] { check_weight_grad<bf16>({.W = 90, .I = 140, .I2 = 12, .N = 98}, tile); });
}

TEST_CASE("gather_weight_grad/packed/convolutions") {
  const int tile = packed_tile();
  check_conv_weight_grad(plane(9, 8, 3, 1, 1, 90, 0, 90), tile);
  check_conv_weight_grad(plane(5, 7, 3, 1, 1, 90, 90, 90), tile);
  check_conv_weight_grad(plane(7, 5, 3, 1, 0, 98, 33, 100), tile);
  check_conv_weight_grad(plane(8, 8, 4, 2, 1, 90, 0, 20), tile);
  const kernels::Conv3dSize s = plane(9, 8, 3, 1, 1, 42, 9, 20);
  const std::string first = check_conv_weight_grad(s, tile);
  for_each_order([&] { CHECK(check_conv_weight_grad(s, tile) == first); });
}

TEST_CASE("gather_weight_grad/packed/not where words find no threads") {
  for (const auto& [k, I, fits] :
       {std::tuple{3, 90, true}, {4, 90, true}, {5, 90, false}, {5, 88, true}, {3, 92, false}}) {
    auto p = layer(8, k, I, 0, 16);
    p.tile = packed_tile();
    INFO(k << "x" << k << " " << I);
    CHECK((kernels::plan_weight_grad(p, kGradAmpere).splits > 0) == fits);
  }
}

TEST_CASE("gather_weight_grad/rule/tiles of the networks' layers") {
  const auto picked = [](const GatherWeightGrad<bf16>& p) {
    std::array<int, 2> tile{};
    WeightGradTiles<bf16>::with(kernels::plan_weight_grad(p, kGradAmpere).tile, [&]<class Tile>() {
      tile = {Tile::BM, Tile::BN};
    });
    return tile;
  };
  CHECK(picked(layer(64, 3, 50, 0, 50)) == std::array{128, 56});
  CHECK(picked(layer(64, 3, 90, 0, 90)) == std::array{416, 96});
  CHECK(picked(layer(64, 3, 96, 0, 96)) == std::array{448, 96});
  CHECK(picked(layer(64, 3, 100, 0, 100)) == std::array{128, 104});
  CHECK(picked(layer(32, 3, 180, 0, 180)) == std::array{128, 184});
  CHECK(picked(layer(8, 3, 720, 0, 720)) == std::array{128, 184});
  CHECK(picked(layer(32, 4, 90, 0, 90)) == std::array{384, 96});
  CHECK(picked(layer(64, 1, 336, 0, 90)) == std::array{384, 96});
  CHECK(picked(layer(64, 1, 100, 0, 4)) == std::array{64, 16});
  CHECK(picked(layer(64, 1, 90, 0, 1008)) == std::array{96, 128});
}

TEST_CASE("gather_weight_grad/rule/waves of blocks are full, on either kind of device") {
  for (const GradDevice& device : {kGradAmpere, kGradHopper})
    for (const auto& [HW, k, I, I2, O] :
         {std::array{64, 3, 90, 0, 90},
          {64, 3, 90, 90, 90},
          {32, 3, 180, 0, 180},
          {16, 3, 360, 0, 360},
          {8, 3, 720, 0, 720},
          {8, 3, 720, 720, 360},
          {64, 3, 100, 0, 100},
          {8, 3, 800, 0, 800},
          {64, 1, 90, 0, 1008},
          {64, 1, 336, 0, 90}}) {
      const auto p = layer(HW, k, I, I2, O);
      const WeightGradPlan plan = kernels::plan_weight_grad(p, device);
      const Grid grid = grid_of(p, plan, device);
      INFO(
          k << "x" << k << " " << I << "+" << I2 << " to " << O << ": tile " << plan.tile << " splits " << plan.splits
            << " blocks " << grid.blocks << " of " << grid.slots);
      CHECK(grid.filled() > 0.93);
      CHECK(kernels::gather_weight_grad_workspace_bytes(p) < std::int64_t{128} << 20);
    }
}

TEST_CASE("gather_weight_grad/rule/few positions are not cut to pieces") {
  auto p = layer(8, 3, 90, 0, 90);
  p.B = 1, p.t.result = 1;  // 64 positions
  CHECK(kernels::plan_weight_grad(p, kGradAmpere).splits == 1);
  p.B = 0;
  CHECK(kernels::plan_weight_grad(p, kGradAmpere).splits == 0);
  CHECK(kernels::plan_weight_grad(p, kGradHopper).splits == 0);
}

}  // namespace avid::test
