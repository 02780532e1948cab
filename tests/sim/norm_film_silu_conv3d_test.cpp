// tests/sim/norm_film_silu_conv3d_test.cpp -- data gradients that end in the gradient of a norm: against f64 and
// the two kernels that they replace
#include "kernels/norm_film_silu_conv3d.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/conv_tiles.h"
#include "tests/sim/arch.h"
#include "tests/sim/conv_support.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Conv3dSize;
using kernels::kFirstHaloMmaTile, kernels::kFirstHaloTile, kernels::kFirstWgmmaTile;
using kernels::NormSumBlocks;
using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

/// The op itself; other numbers name a tile.
constexpr int kTheOp = -2;

/// y = conv3d(rms_norm_film_silu(x)) with k x k windows in the planes of B * T frames, I channels to O.
struct Case {
  std::int64_t B = 0, T = 0, H = 0, W = 0, I = 0, O = 0;
  std::int64_t k = 3, padding = 1;
  bool film = true, d_gamma = true, d_film = true;
  double x_scale = 1;

  Conv3dSize size() const {
    Conv3dSize s{.B = B, .in = {T, H, W}, .I = I, .O = O, .kernel = {1, k, k}, .padding = {0, padding, padding}};
    s.out = {T, H + 2 * padding - k + 1, W + 2 * padding - k + 1};
    return s;
  }
  std::int64_t frames() const { return B * T; }
};

kernels::GatherGemm<bf16> shape_of(const Conv3dSize& s, int tile) {
  kernels::GatherGemm<bf16> shape = kernels::conv_products::adjoint_shape<bf16>("test", s);
  shape.norm = kernels::conv_products::row_norm_grad<bf16>(s);
  shape.tile = tile;
  return shape;
}

struct Operands {
  DeviceRows<bf16> x, d_out, w;
  DeviceRows<float> gamma, film;

  explicit Operands(const Case& c)
      : x(DeviceRows<bf16>::random(c.size().in_positions(), c.I, 1)),
        d_out(DeviceRows<bf16>::random(c.size().out_positions(), c.O, 2)),
        w(DeviceRows<bf16>::random(c.O * c.size().taps(), c.I, 3)),
        gamma(DeviceRows<float>::random(1, c.I, 4)),
        film(DeviceRows<float>::random(c.frames(), 2 * c.I, 5)) {
    for (std::int64_t r = 0; r < c.size().in_positions(); ++r)
      for (std::int64_t i = 0; i < c.I; ++i)
        x.at(r)[i] = bf16(static_cast<float>(c.x_scale) * static_cast<float>(x.at(r)[i]));
  }
  kernels::RmsNormFilmSiluDeviceArgs<bf16> norm(const Case& c) const {
    kernels::RmsNormFilmSiluDeviceArgs<bf16> p;
    p.F = c.frames(), p.S = c.H * c.W, p.C = c.I;
    p.x = x.rows(), p.gamma = gamma.rows().data;
    if (c.film) p.film = film.rows();
    return p;
  }
};

struct Outputs {
  DeviceRows<bf16> d_x;
  DeviceRows<float> d_gamma, d_film;

  explicit Outputs(const Case& c)
      : d_x(DeviceRows<bf16>::poisoned(c.size().in_positions(), c.I)),
        d_gamma(DeviceRows<float>::poisoned(1, c.I)),
        d_film(DeviceRows<float>::poisoned(c.frames(), 2 * c.I)) {}
  float* gamma_or_null(const Case& c) { return c.d_gamma ? d_gamma.rows().data : nullptr; }
  Rows<float> film_or_none(const Case& c) { return c.film && c.d_film ? d_film.rows() : Rows<float>{}; }
};

Outputs run(const Case& c, const Operands& in, int tile) {
  const Conv3dSize s = c.size();
  Outputs o(c);
  Workspace product(kernels::conv3d_bwd_data_workspace_bytes<bf16>(s));
  if (tile == kTheOp) {
    const NormSumBlocks blocks = kernels::norm_film_silu_conv3d_bwd_blocks<Sim>(s);
    Workspace sums(4 * kernels::norm_film_silu_conv3d_bwd_sums(s, blocks));
    kernels::norm_film_silu_conv3d_bwd<Sim>(
        Stream{}, s, blocks, in.norm(c),
        {.d_out = in.d_out.rows(),
         .w = in.w.rows(),
         .d_x = o.d_x.rows(),
         .d_gamma = o.gamma_or_null(c),
         .d_film = o.film_or_none(c),
         .sums = static_cast<float*>(sums.data()),
         .workspace = product.data()});
    return o;
  }
  const NormSumBlocks blocks = kernels::norm_blocks(shape_of(s, tile), tile);
  const std::int64_t width = (c.I + 7) / 8 * 8;
  Workspace partial(4 * blocks.count * blocks.frames * 2 * width), frames(4 * c.frames() * width);
  kernels::RowNorm<bf16> end = kernels::conv_products::row_norm_grad<bf16>(s);
  const auto norm = in.norm(c);
  end.gamma = norm.gamma, end.film = norm.film;
  end.x = kernels::chunk_rows("test", "x", norm.x, c.I);
  end.column_sums = static_cast<float*>(partial.data());
  kernels::conv_products::adjoint<Sim, bf16>(
      "test", Stream{}, s, in.d_out.rows(), in.w.rows(), nullptr, {}, {}, o.d_x.rows(), {}, product.data(), tile, {},
      end);
  kernels::rms_norm_film_silu_bwd_sums<Sim, bf16>(
      Stream{}, norm, blocks, end.column_sums, o.gamma_or_null(c), o.film_or_none(c),
      static_cast<float*>(frames.data()));
  return o;
}

void check(const Case& c, int tile) {
  INFO(
      "tile " << tile << " B " << c.B << " T " << c.T << " " << c.H << "x" << c.W << " k " << c.k << " I " << c.I
              << " O " << c.O << " film " << c.film);
  const Conv3dSize s = c.size();
  const Operands in(c);
  Outputs o = run(c, in, tile);
  CHECK(o.d_x.gaps_are_zero());

  // The two kernels, of which the first rounds d_h. (The op chooses its tile by the norm as well.)
  auto d_h = DeviceRows<bf16>::poisoned(s.in_positions(), c.I), d_x = d_h;
  Workspace product(kernels::conv3d_bwd_data_workspace_bytes<bf16>(s));
  kernels::conv_products::adjoint<Sim, bf16>(
      "test", Stream{}, s, in.d_out.rows(), in.w.rows(), nullptr, {}, {}, d_h.rows(), {}, product.data(),
      tile == kTheOp ? kernels::kChooseTile : tile);
  const auto norm = in.norm(c);
  Workspace sums(4 * kernels::rms_norm_film_silu_bwd_workspace(norm.F, norm.S, norm.C));
  kernels::rms_norm_film_silu_bwd<Sim, bf16>(
      Stream{}, norm,
      {.d_out = d_h.rows(), .d_x = d_x.rows(), .d_film = {}, .workspace = static_cast<float*>(sums.data())});
  if (tile != kTheOp) CHECK(o.d_x.bytes() == d_x.bytes());

  // f64 from the rounded d_h: one rounding of d_x, f32 sums. And from the product itself: d_h's rounding before.
  const std::vector<double> x = in.x.values(), gamma = in.gamma.values(), film = in.film.values(),
                            d_out = in.d_out.values(), w = in.w.values(), rounded = d_h.values();
  std::vector<double> exact(x.size());
  kernels::conv3d_ref_bwd_data<double>(s, {d_out.data(), c.O}, {w.data(), c.I}, {exact.data(), c.I}, {});
  CHECK(worst_error(rounded, exact, kUnit<bf16>) < 1.0);
  const auto expect = [&](const std::vector<double>& d_of_h, double roundings, double sum_unit) {
    std::vector<double> x_ref(x.size()), gamma_ref(gamma.size()), film_ref(film.size());
    kernels::RmsNormFilmSiluArgs<double> p{
        .F = c.frames(),
        .S = c.H * c.W,
        .C = c.I,
        .x = {x.data(), c.I},
        .gamma = gamma.data(),
        .film = {},
        .residual = {},
        .out = {}};
    if (c.film) p.film = {film.data(), 2 * c.I};
    kernels::RmsNormFilmSiluGrads<double> g{
        .d_out = {d_of_h.data(), c.I}, .d_x = {x_ref.data(), c.I}, .d_gamma = gamma_ref.data(), .d_film = {}};
    if (c.film) g.d_film = {film_ref.data(), 2 * c.I};
    kernels::rms_norm_film_silu_bwd_reference<double>(p, g);
    if (c.I > 1) CHECK(worst_error(o.d_x.values(), x_ref, kUnit<bf16>) < roundings);
    if (c.d_gamma) CHECK(worst_error(o.d_gamma.values(), gamma_ref, sum_unit) < 1.0);
    if (c.film && c.d_film) CHECK(worst_error(o.d_film.values(), film_ref, sum_unit) < 1.0);
  };
  if (tile != kTheOp) expect(rounded, 1.0, 4e-5);
  expect(exact, 2.0, 1.0 / 64);
}

/// More frames of 5x7 than a tile of BM positions holds; windows of one tap, or three by three.
Case frames_past(std::int64_t BM, std::int64_t I, std::int64_t k) {
  return {.B = 1, .T = BM / 35 + 1, .H = 5, .W = 7, .I = I, .O = 9, .k = k, .padding = k / 2};
}

/// One frame more than a block of BM positions holds of two.
Case few_frames(std::int64_t BM, std::int64_t I) { return {.B = 1, .T = 2, .H = 4, .W = BM / 5, .I = I, .O = 9}; }

/// The tile of HaloMmaTiles with so many rows and columns.
int halo_mma_tile(int rows, int columns) {
  int found = -1;
  kernels::HaloMmaTiles::for_each([&]<class Entry>(int i) {
    if (Entry::Tile::BM == rows && Entry::Tile::BN == columns) found = kFirstHaloMmaTile + i;
  });
  return found;
}

bool is_one(const Conv3dSize& s) { return kernels::norm_film_silu_conv3d_bwd_blocks<Sim>(s).count > 0; }

}  // namespace

TEST_CASE("norm_film_silu_conv3d/every_tile_of_mma") {
  using Tiles = kernels::GatherGemmTiles<bf16>;
  int seen = 0;
  for (int i = 0; i < Tiles::kCount; ++i)
    Tiles::with(i, [&]<class Tile>() {
      if (Tile::kWarpsN > 1) return;
      check(frames_past(std::min(Tile::BM, 128), Tile::BN - 3, 1), i);
      ++seen;
    });
  CHECK(seen == 7);
  using HaloTiles = kernels::HaloMmaTiles;
  for (int i = 0; i < HaloTiles::kCount; ++i)
    HaloTiles::with(i, [&]<class Tile>() {
      if (!kernels::halo_ends_in_norm_grad<Tile>()) return;
      check(few_frames(Tile::BM, Tile::BN - 3), kFirstHaloMmaTile + i);
      ++seen;
    });
  CHECK(seen == 17);
}

TEST_CASE("norm_film_silu_conv3d/every_tile_of_wgmma") {
  if (!can_be_arch(90)) return;
  const OnArch arch(90);
  for (int i = 0; i < kernels::WgmmaTiles::kCount; ++i)
    kernels::WgmmaTiles::with(i, [&]<class Tile>() {
      check({.B = 1, .T = 2, .H = 3, .W = Tile::BM / 5, .I = Tile::BN - 3, .O = 9}, kFirstWgmmaTile + i);
    });
  for (int i = 0; i < kernels::HaloTiles::kCount; ++i)
    kernels::HaloTiles::with(i, [&]<class Tile>() {
      if (!Tile::kEndsInNormGrad) return;
      check(few_frames(Tile::BM, Tile::BN - 3), kFirstHaloTile + i);
      check({.B = 1, .T = 3, .H = 8, .W = 16, .I = Tile::BN - 3, .O = 9}, kFirstHaloTile + i);  // patches
    });
}

TEST_CASE("norm_film_silu_conv3d/widths") {
  check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 1, .O = 3}, 0);
  for (const std::int64_t I : {3, 8, 13}) check({.B = 1, .T = 2, .H = 5, .W = 7, .I = I, .O = 3}, 0);
  check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 50, .O = 8}, kFirstHaloMmaTile);
  check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 90, .O = 8}, halo_mma_tile(256, 96));
  check({.B = 1, .T = 1, .H = 5, .W = 7, .I = 200, .O = 8}, halo_mma_tile(128, 200));
}

TEST_CASE("norm_film_silu_conv3d/frames") {
  check({.B = 2, .T = 3, .H = 1, .W = 3, .I = 8, .O = 9, .k = 1, .padding = 0}, 0);   // of 3 rows: several among 16
  check({.B = 4, .T = 3, .H = 1, .W = 1, .I = 8, .O = 9, .k = 1, .padding = 0}, 0);   // of one row
  check({.B = 1, .T = 3, .H = 4, .W = 8, .I = 8, .O = 9}, 0);                         // of a block of 32 rows
  check({.B = 1, .T = 2, .H = 8, .W = 12, .I = 8, .O = 9}, 0);                        // of three such
  check({.B = 1, .T = 2, .H = 7, .W = 11, .I = 8, .O = 9}, 0);                        // blocks begin inside of frames
  check({.B = 2, .T = 2, .H = 17, .W = 17, .I = 40, .O = 9}, 4);                      // and hold several
  check({.B = 1, .T = 2, .H = 20, .W = 16, .I = 50, .O = 9}, kFirstHaloMmaTile);      // more than a block, and less
  check({.B = 1, .T = 1, .H = 1, .W = 1, .I = 8, .O = 8, .k = 1, .padding = 0}, 0);   // one position
  check({.B = 1, .T = 2, .H = 5, .W = 5, .I = 8, .O = 12, .k = 5, .padding = 0}, 0);  // a result of one row
  check({.B = 1, .T = 2, .H = 3, .W = 4, .I = 8, .O = 12, .k = 3, .padding = 2}, 0);  // a larger result
}

TEST_CASE("norm_film_silu_conv3d/absent operands") {
  const Case all{.B = 2, .T = 1, .H = 5, .W = 3, .I = 20, .O = 8};
  const auto each = [&](int tile) {
    for (int change = 0; change < 4; ++change) {
      Case c = all;
      if (change == 0 || change == 3) c.film = false;
      if (change == 1) c.d_gamma = false;
      if (change >= 2) c.d_film = false;
      check(c, tile);
    }
  };
  for (const int tile : {1, kFirstHaloMmaTile}) each(tile);
  if (!can_be_arch(90)) return;
  const OnArch arch(90);
  each(kFirstHaloTile);
}

TEST_CASE("norm_film_silu_conv3d/rows of zeros stand on the floor of the norm, tiny ones do not") {
  for (const double scale : {0.0, 1e-10, 1e-14})
    check({.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .O = 10, .x_scale = scale}, 0);
}

TEST_CASE("norm_film_silu_conv3d/the op") {
  for (const int version : {80, 90}) {
    if (!can_be_arch(version)) continue;
    const OnArch arch(version);
    check({.B = 2, .T = 2, .H = 5, .W = 7, .I = 13, .O = 12}, kTheOp);
    check({.B = 2, .T = 2, .H = 5, .W = 7, .I = 13, .O = 12, .film = false, .d_gamma = false}, kTheOp);
    CHECK_THROWS_WITH_AS(
        check({.B = 1, .T = 1, .H = 4, .W = 4, .I = 300, .O = 8}, kTheOp),
        "norm_film_silu_conv3d_bwd: expected a block that holds rows of 300 channels | ask "
        "norm_film_silu_conv3d_bwd_blocks first",
        kernels::GpuError);
  }
}

TEST_CASE("norm_film_silu_conv3d/nothing is launched for sums that nobody asked for") {
  if (!lists_launches()) return;
  Case c{.B = 2, .T = 2, .H = 5, .W = 7, .I = 13, .O = 12};
  const Operands in(c);
  const auto launched = [&](bool d_gamma, bool d_film) {
    c.d_gamma = d_gamma, c.d_film = d_film;
    return launches_of([&] { run(c, in, kTheOp); });
  };
  const auto none = launched(false, false), gamma = launched(true, false), film = launched(false, true);
  CHECK(none.size() == 2);  // w transposed, the product
  CHECK(without(none, gamma).empty());
  CHECK(without(none, film).empty());
  CHECK(gamma.size() > none.size());
  CHECK(film.size() > none.size());
}

TEST_CASE("norm_film_silu_conv3d/in_every_order") {
  for (const int tile : {0, kFirstHaloMmaTile, kFirstWgmmaTile, kFirstHaloTile}) {
    CAPTURE(tile);
    const int version = tile >= kFirstWgmmaTile && tile < kFirstHaloMmaTile ? 90 : 80;
    if (!can_be_arch(version)) continue;
    const OnArch arch(version);
    const Case c{.B = 1, .T = 2, .H = 9, .W = 15, .I = 13, .O = 9};
    const Operands in(c);
    std::vector<std::string> first[3];
    for_each_order([&] {
      const Outputs o = run(c, in, tile);
      if (first[0].empty()) first[0] = o.d_x.bytes(), first[1] = o.d_gamma.bytes(), first[2] = o.d_film.bytes();
      CHECK(o.d_x.bytes() == first[0]);
      CHECK(o.d_gamma.bytes() == first[1]);
      CHECK(o.d_film.bytes() == first[2]);
    });
    check(c, tile);
  }
}

TEST_CASE("norm_film_silu_conv3d/a row or frame that is not finite stays alone, and has gaps of zeros") {
  const Case c{.B = 1, .T = 2, .H = 1, .W = 5, .I = 11, .O = 8, .k = 1, .padding = 0};
  Operands in(c);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  in.d_out.at(1)[0] = bf16(nan);
  const Outputs row = run(c, in, 0);
  CHECK(row.d_x.gaps_are_zero());
  for (std::int64_t r = 0; r < 10; ++r) CHECK(std::isnan(static_cast<float>(row.d_x.at(r)[2])) == (r == 1));
  CHECK(std::isnan(row.d_film.at(0)[3]));
  CHECK(std::isfinite(row.d_film.at(1)[3]));
  in = Operands(c);
  in.film.at(1)[11 + 4] = nan;  // a shift
  const Outputs frame = run(c, in, 0);
  for (std::int64_t r = 0; r < 10; ++r) CHECK(std::isnan(static_cast<float>(frame.d_x.at(r)[2])) == (r >= 5));
  CHECK(std::isfinite(frame.d_film.at(0)[4]));
  CHECK(std::isnan(frame.d_film.at(1)[4]));
}

TEST_CASE("norm_film_silu_conv3d/rule/the product's tile decides") {
  const auto fuses = [](std::int64_t side, std::int64_t I, std::int64_t O) {
    return is_one(Case{.B = 64, .T = 8, .H = side, .W = side, .I = I, .O = O}.size());
  };
  for (const int version : {80, 90}) {
    if (!can_be_arch(version)) continue;
    const OnArch arch(version);
    CAPTURE(version);
    for (const std::int64_t I : {50, 90, 100}) {
      CAPTURE(I);
      CHECK(fuses(64, I, I));
      CHECK(fuses(64, I, 2 * I));
      CHECK(fuses(32, I, I));
    }
    for (const std::int64_t I : {180, 200}) CHECK(fuses(32, I, I));
    CHECK_FALSE(fuses(8, 720, 720));
    CHECK_FALSE(is_one(Case{.B = 0, .T = 8, .H = 4, .W = 4, .I = 8, .O = 8}.size()));
    CHECK_FALSE(is_one(Case{.B = 4096, .T = 8, .H = 1, .W = 1, .I = 100, .O = 8, .k = 1, .padding = 0}.size()));
    Conv3dSize s = Case{.B = 2, .T = 2, .H = 8, .W = 8, .I = 8, .O = 8}.size();
    CHECK(is_one(s));
    s.I2 = 8;
    CHECK_FALSE(is_one(s));
    s.I2 = 0, s.kernel = {1, 4, 4}, s.stride = {1, 2, 2}, s.out = {2, 4, 4};
    CHECK_FALSE(is_one(s));
  }
}

TEST_CASE("norm_film_silu_conv3d/rule/coefficients and sums of the frames that a block meets") {
  const auto blocks = [](std::int64_t F, std::int64_t H, std::int64_t W, std::int64_t I, int tile) {
    return kernels::norm_blocks(shape_of(Case{.B = F, .T = 1, .H = H, .W = W, .I = I, .O = I}.size(), tile), tile);
  };
  const NormSumBlocks whole = blocks(512, 64, 64, 90, halo_mma_tile(256, 96));  // 256 rows
  CHECK(whole.rows == 256);
  CHECK(whole.rows_per_frame == 4096);
  CHECK(whole.frames == 1);
  CHECK(whole.count == 8192);
  CHECK(blocks(512, 32, 32, 180, halo_mma_tile(128, 184)).frames == 1);
  CHECK(blocks(512, 31, 31, 180, halo_mma_tile(128, 184)).frames == 2);
  CHECK(blocks(512, 8, 8, 180, halo_mma_tile(128, 184)).frames == 2);
  CHECK(blocks(512, 4, 4, 180, halo_mma_tile(128, 184)).count == 0);         // eight frames do not fit
  const NormSumBlocks raster = blocks(512, 63, 64, 90, kFirstHaloTile + 1);  // 256 positions of a raster of 64 x 65
  CHECK(raster.rows == 256);
  CHECK(raster.rows_per_frame == 64 * 65);
  CHECK(raster.frames == 2);
  CHECK(raster.count == (512 * 64 * 65 + 255) / 256);
  const NormSumBlocks patches = blocks(512, 64, 64, 90, kFirstHaloTile + 1);  // of 8x8, four in a block
  CHECK(patches.rows_per_frame == 4096);
  CHECK(patches.frames == 1);
  CHECK(patches.count == 8192);
  CHECK(blocks(512, 64, 64, 100, kFirstHaloTile + 1).count == 0);  // 96 columns
  CHECK(blocks(512, 32, 32, 193, halo_mma_tile(128, 200)).frames == 1);
  CHECK(blocks(512, 32, 32, 192, halo_mma_tile(128, 200)).count == 0);  // a kernel of sixteen lanes a row
}

}  // namespace avid::test
