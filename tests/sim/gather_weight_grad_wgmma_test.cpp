// tests/sim/gather_weight_grad_wgmma_test.cpp -- weight gradients on compute capability 9.0: every tile, convolutions
// with them against the f64 reference, and when the rule takes them
#include <string>
#include <utility>

#include "kernels/device/conv_products.h"
#include "kernels/device/weight_grad_plan.h"
#include "tests/sim/arch.h"
#include "tests/sim/gather_conv.h"
#include "tests/sim/gather_line.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Conv3dSize;
using kernels::kFirstWgmmaTile;
using kernels::WgmmaGradTiles;

constexpr int k56 = kFirstWgmmaTile, k96 = k56 + 1, k104 = k56 + 2, kStrided = k56 + 3, k128 = k56 + 4;

/// The rule's choice on compute capability 9.0: a place in WgmmaGradTiles, or -1 for mma.sync.
int place_of_choice(const Conv3dSize& s) {
  const int tile =
      kernels::plan_weight_grad(
          kernels::conv_products::weight_grad<bf16>("test", s, {}, {}, {}, {}, nullptr), kernels::kGradHopper)
          .tile;
  return tile < kFirstWgmmaTile ? -1 : tile - kFirstWgmmaTile;
}

/// Sectors of global memory that the first block of the gradient reads.
std::uint64_t sectors_read(const Conv3dSize& s, int tile) {
  kernels::simulator::options().profile = true;
  check_conv_weight_grad(s, tile);
  kernels::simulator::options().profile = false;
  std::uint64_t sum = 0;
  for (const kernels::simulator::TrafficLine& line : kernels::simulator::take_traffic_lines())
    if (!line.shared && !line.write && line.kernel.find("add_splits") == std::string::npos) sum += line.units;
  return sum;
}

}  // namespace

TEST_CASE("gather_weight_grad_wgmma/every_tile/more columns, and two more channels, than it has") {
  const OnArch arch(90);
  for (int i = 0; i < WgmmaGradTiles::kCount; ++i)
    WgmmaGradTiles::with(i, [&]<class Tile>() {
      const std::int64_t runs = Tile::kShifts == 3 ? 1 : Tile::kShifts == 2 ? 2 : 3;  // classes of three taps
      check_weight_grad<bf16>(
          {.W = 70, .I = Tile::kColumns / runs * 8 + 5, .I2 = 9, .N = Tile::BN + 2}, kFirstWgmmaTile + i);
    });
}

TEST_CASE("gather_weight_grad_wgmma/positions/fewer and more steps than stages, and around a step") {
  const OnArch arch(90);
  for (const std::int64_t W : {1, 2, 62, 63, 64, 65, 128, 129, 500})
    check_weight_grad<bf16>({.W = W, .I = 12, .I2 = 3, .N = 8}, k56);
}

TEST_CASE("gather_weight_grad_wgmma/splits/of several steps each, added in order") {
  const OnArch arch(90);
  const Line line{.W = 2300, .I = 12, .I2 = 3, .N = 8};
  check_weight_grad<bf16>(line, k56);
  kernels::GatherWeightGrad<bf16> p;
  line.set_axes(p);
  p.tile = k56, p.source[0].chunks = 2, p.source[1].chunks = 1, p.num_columns = 8;
  const kernels::WeightGradPlan plan = kernels::plan_weight_grad(p, kernels::kGradHopper);
  CHECK(plan.splits > 2);
  CHECK(plan.steps_per_split > 2);
}

TEST_CASE("gather_weight_grad_wgmma/convolutions/3x3") {
  const OnArch arch(90);
  check_conv_weight_grad(plane(5, 7, 3, 1, 1, 50, 0, 50), k56);
  check_conv_weight_grad(plane(9, 8, 3, 1, 1, 90, 0, 90), k96);
  check_conv_weight_grad(plane(7, 5, 3, 1, 1, 100, 36, 100), k104);
  check_conv_weight_grad(plane(6, 9, 3, 1, 1, 8, 7, 3), k56);
  check_conv_weight_grad(plane(3, 4, 3, 1, 1, 1, 0, 1), k56);
  check_conv_weight_grad(plane(1, 1, 3, 1, 1, 3, 0, 130), k128);
}

TEST_CASE("gather_weight_grad_wgmma/convolutions/strides, paddings and windows of other sizes") {
  const OnArch arch(90);
  for (const int tile : {k56, kStrided, k128}) {
    check_conv_weight_grad(plane(8, 6, 4, 2, 1, 24, 0, 16), tile);
    check_conv_weight_grad(plane(7, 9, 7, 1, 3, 12, 0, 5), tile);
    check_conv_weight_grad(plane(7, 9, 5, 3, 4, 3, 2, 5), tile);  // more padding than a shift reaches
    check_conv_weight_grad(plane(6, 7, 3, 1, 0, 9, 0, 10), tile);
    check_conv_weight_grad(plane(5, 6, 1, 1, 0, 30, 20, 60), tile);
    check_conv_weight_grad(plane(7, 8, 1, 3, 0, 5, 0, 6), tile);  // source rows that no window meets
    check_conv_weight_grad(plane(4, 5, 2, 1, 1, 5, 0, 6), tile);  // a result larger than its source
    check_conv_weight_grad(
        sized(
            {.B = 1, .in = {5, 4, 6}, .I = 10, .O = 7, .kernel = {3, 3, 3}, .stride = {2, 1, 1}, .padding = {1, 1, 1}}),
        tile);
    check_conv_weight_grad(
        sized({.B = 3, .in = {4, 3, 2}, .I = 5, .O = 4, .kernel = {3, 1, 1}, .padding = {1, 0, 0}}), tile);
  }
}

TEST_CASE("gather_weight_grad_wgmma/empty/no clips give zero") {
  const OnArch arch(90);
  Conv3dSize s = plane(4, 4, 3, 1, 1, 5, 0, 6);
  s.B = 0;
  for (const int tile : {kernels::kChooseTile, k56}) check_conv_weight_grad(s, tile);
}

TEST_CASE("gather_weight_grad_wgmma/in_every_order/the same bits") {
  const OnArch arch(90);
  std::string first;
  for_each_order([&] {
    const std::string bits = check_conv_weight_grad(plane(20, 33, 3, 1, 1, 20, 0, 12), k56);
    if (first.empty()) first = bits;
    CHECK(bits == first);
  });
  for_each_order([] { check_conv_weight_grad(plane(12, 14, 4, 2, 1, 40, 0, 20), kStrided); });
}

TEST_CASE("gather_weight_grad_wgmma/plan/runs of taps and rows as short as they may be") {
  using kernels::GatherAxis;
  const auto plan = [](const GatherAxis& x, int shifts) {
    const kernels::ShiftedTaps s = kernels::shifted_taps(x, shifts);
    return std::pair(s.classes, s.pitch - x.result);
  };
  const GatherAxis three{.source = 64, .result = 64, .taps = 3, .stride = 1, .padding = 1};
  CHECK(plan(three, 3) == std::pair(1, 1));  // the padding of two rows is one position
  CHECK(plan(three, 1) == std::pair(3, 0));
  CHECK(plan({.source = 64, .result = 62, .taps = 3, .stride = 1, .padding = 0}, 3) == std::pair(1, 2));
  CHECK(plan({.source = 64, .result = 32, .taps = 4, .stride = 2, .padding = 1}, 2) == std::pair(2, 1));
  CHECK(plan({.source = 64, .result = 64, .taps = 7, .stride = 1, .padding = 3}, 2) == std::pair(4, 1));
  CHECK(plan({.source = 64, .result = 64, .taps = 1, .stride = 1, .padding = 0}, 1) == std::pair(1, 0));
  CHECK(plan({.source = 5, .result = 6, .taps = 2, .stride = 1, .padding = 1}, 3) == std::pair(1, 1));
  CHECK(plan({.source = 64, .result = 32, .taps = 7, .stride = 2, .padding = 3}, 2) == std::pair(4, 1));
  CHECK(kernels::first_tap_of_class(2, 2, 1) == 1);
  CHECK(kernels::first_tap_of_class(1, 3, 2) == 6);
  CHECK(kernels::first_tap_of_class(2, 1, 3) == 3);
}

TEST_CASE("gather_weight_grad_wgmma/plan/no splits where there is nothing, or too much") {
  const auto splits = [](int B, int positions) {
    kernels::GatherWeightGrad<bf16> p;
    p.B = B;
    p.x = {.source = positions, .result = positions, .taps = 1, .stride = 1, .padding = 0};
    p.source[0].chunks = p.num_columns = 8;
    p.tile = k128;
    return kernels::plan_weight_grad(p, kernels::kGradHopper).splits;
  };
  constexpr int kLimit = 0x7fffffff - (1 << 20);
  CHECK(splits(0, 10) == 0);
  CHECK(splits(1, 10) == 1);
  CHECK(splits(1, kLimit) > 90);
  CHECK(splits(1, kLimit + 1) == 0);
}

TEST_CASE("gather_weight_grad_wgmma/rule/the networks' layers on 9.0, never elsewhere") {
  // k x k windows in planes of 64 clips of 8 frames.
  const auto place = [](std::int64_t HW, std::int64_t k, std::int64_t stride, std::int64_t I, std::int64_t O) {
    Conv3dSize s = plane(HW, HW, k, stride, (k - 1) / 2, I, 0, O);
    s.B = 64 * 8;
    return place_of_choice(s);
  };
  CHECK(place(64, 3, 1, 50, 50) == 0);
  CHECK(place(64, 3, 1, 90, 90) == 1);
  CHECK(place(64, 3, 1, 100, 100) == 2);
  CHECK(place(32, 3, 1, 200, 200) == 2);
  CHECK(place(64, 4, 2, 100, 100) == 3);
  CHECK(place(32, 3, 1, 180, 180) == 6);
  CHECK(place(8, 3, 1, 720, 720) == 5);
  CHECK(place(64, 1, 1, 336, 90) == 8);
  CHECK(place(64, 1, 1, 100, 4) == -1);  // the head
  std::string text;
  const OnArch arch(80);
  try {
    check_weight_grad<bf16>({.W = 40, .I = 8, .I2 = 3, .N = 8}, k56);
  } catch (const kernels::GpuError& e) {
    text = e.what();
  }
  CHECK(text.find("compute capability 9.0") != std::string::npos);
}

TEST_CASE("gather_weight_grad_wgmma/reads the rows of three taps once") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  const OnArch arch(90);
  const Conv3dSize s = plane(32, 32, 3, 1, 1, 64, 0, 16);
  // 128 bytes per position of each source row and 32 of the result's: one row for three taps' 192 sums, against four
  // rows for 256.
  const std::uint64_t shared = sectors_read(s, k56), gathered = sectors_read(s, k128);
  CHECK(shared > 32 * 32 / 4 * 4);  // at least a split's share
  CHECK(2 * shared < gathered);
}

}  // namespace avid::test
