// tests/sim/linear_layer_norm_test.cpp -- products that end in the gradient of a LayerNorm, against f64
#include "kernels/linear_layer_norm.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/conv_tiles.h"
#include "tests/sim/arch.h"
#include "tests/sim/conv_support.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::kChooseTile, kernels::kFirstWgmmaTile, kernels::kFirstHaloTile;
using kernels::LinearSize;
using kernels::Sim;
using kernels::Stream;

/// The op itself, whatever kernels it takes; other numbers name a tile of the one kernel.
constexpr int kTheOp = -2;

/// y = linear(layer_norm(x)) of P rows of I channels to O.
struct Case {
  std::int64_t P, I, O;
  bool residual = true, d_gamma = true, in_place = false;

  LinearSize size() const { return {.P = P, .I = I, .O = O}; }
};

template <class Elem>
struct Outputs {
  DeviceRows<Elem> d_x;
  DeviceRows<float> d_gamma;
};

template <class Elem>
Outputs<Elem> run(const Case& c, int tile) {
  const LinearSize s = c.size();
  const auto x = DeviceRows<Elem>::random(c.P, c.I, 1), d_out = DeviceRows<Elem>::random(c.P, c.O, 2);
  const auto w = DeviceRows<Elem>::random(c.O, c.I, 3), residual = DeviceRows<Elem>::random(c.P, c.I, 4);
  const auto gamma = DeviceRows<float>::random(1, c.I, 5);
  Outputs<Elem> o{DeviceRows<Elem>::poisoned(c.P, c.I), DeviceRows<float>::poisoned(1, c.I)};
  if (c.in_place) o.d_x = residual;
  kernels::Rows<const Elem> past;
  if (c.residual) past = c.in_place ? o.d_x.rows() : residual.rows();
  Workspace product(kernels::linear_bwd_data_workspace_bytes<Elem>(s));
  Workspace sums(kernels::layer_norm_bwd_workspace(c.P, c.I) * 4);
  auto d_h = DeviceRows<Elem>::poisoned(c.P, c.I);
  const kernels::LayerNormDeviceArgs<Elem> norm{
      .num_rows = c.P, .C = c.I, .x = x.rows(), .gamma = gamma.rows().data, .eps = 1e-5f, .out = {}};
  if (tile == kTheOp) {
    kernels::linear_layer_norm_bwd<Sim, Elem>(
        Stream{}, s, w.rows(), norm,
        {.d_out = d_out.rows(),
         .d_residual = past,
         .d_h = d_h.rows(),
         .d_x = o.d_x.rows(),
         .d_gamma = c.d_gamma ? o.d_gamma.rows().data : nullptr,
         .workspace = static_cast<float*>(sums.data()),
         .linear_space = product.data()});
    return o;
  }
  if constexpr (sizeof(Elem) == 2) {
    float* const partial = c.d_gamma ? static_cast<float*>(sums.data()) : nullptr;
    kernels::conv_products::adjoint<Sim, Elem>(
        "test", Stream{}, kernels::conv_products::of_linear(s), d_out.rows(), w.rows(), nullptr, past, {}, o.d_x.rows(),
        {}, product.data(), tile,
        {.C = static_cast<int>(c.I),
         .eps = norm.eps,
         .gamma = norm.gamma,
         .x = kernels::chunk_rows("test", "x", norm.x, c.I),
         .d_gamma = partial});
    if (c.d_gamma) {
      kernels::GatherGemm<bf16> shape =
          kernels::conv_products::adjoint_shape<bf16>("test", kernels::conv_products::of_linear(s));
      shape.tile = tile;
      const std::int64_t blocks = kernels::layer_norm_grad_blocks<Sim>(shape), width = (c.I + 7) / 8 * 8;
      for (std::int64_t i = 0; i < c.I; ++i) {
        double sum = 0;
        for (std::int64_t b = 0; b < blocks; ++b) sum += static_cast<double>(partial[b * width + i]);
        o.d_gamma.at(0)[i] = static_cast<float>(sum);
      }
    }
  }
  return o;
}

/// Both gradients in f64, by the reference loops, on the same values.
template <class Elem>
void check(const Case& c, int tile) {
  INFO(
      "tile " << tile << " P " << c.P << " I " << c.I << " O " << c.O << " residual " << c.residual << " d_gamma "
              << c.d_gamma << " bytes " << sizeof(Elem));
  const std::vector<double> x = DeviceRows<Elem>::random(c.P, c.I, 1).values(),
                            d_out = DeviceRows<Elem>::random(c.P, c.O, 2).values(),
                            w = DeviceRows<Elem>::random(c.O, c.I, 3).values(),
                            residual = DeviceRows<Elem>::random(c.P, c.I, 4).values(),
                            gamma = DeviceRows<float>::random(1, c.I, 5).values();
  std::vector<double> d_h(x.size()), d_x(x.size()), d_gamma(gamma.size());
  kernels::linear_ref_bwd_data<double>(c.size(), {d_out.data(), c.O}, {w.data(), c.I}, {d_h.data(), c.I}, {});
  const kernels::LayerNormArgs<double> norm{
      .num_rows = c.P, .C = c.I, .x = {x.data(), c.I}, .gamma = gamma.data(), .eps = 1e-5f, .out = {}};
  kernels::layer_norm_bwd<double>(
      norm, {.d_out = {d_h.data(), c.I}, .d_x = {d_x.data(), c.I}, .d_gamma = d_gamma.data()});
  if (c.residual)
    for (std::size_t i = 0; i < d_x.size(); ++i) d_x[i] += residual[i];
  const Outputs<Elem> o = run<Elem>(c, tile);
  // One rounding of d_x; f32 sums of d_gamma, of products that tensor cores cut. Two kernels round d_h as well.
  const bool one = tile != kTheOp;
  CHECK(worst_error(o.d_x.values(), d_x, kUnit<Elem>) < (sizeof(Elem) == 2 ? (one ? 1.0 : 2.0) : 4.0));
  if (c.d_gamma)
    CHECK(worst_error(o.d_gamma.values(), d_gamma, one ? 1e-4 : sizeof(Elem) == 2 ? 1.0 / 256 : 1e-4) < 1.0);
  CHECK(o.d_x.gaps_are_zero());
}

}  // namespace

TEST_CASE("linear_layer_norm/every_tile_of_mma") {
  using Tiles = kernels::GatherGemmTiles<bf16>;
  int seen = 0;
  for (int i = 0; i < Tiles::kCount; ++i)
    Tiles::with(i, [&]<class Tile>() {
      if (Tile::kWarpsN > 1) return;
      check<bf16>({.P = Tile::BM + 21, .I = Tile::BN - 3, .O = 21}, i);
      ++seen;
    });
  CHECK(seen == 7);
}

TEST_CASE("linear_layer_norm/every_tile_of_wgmma") {
  if (!can_be_arch(90)) return;
  const OnArch arch(90);
  for (int i = 0; i < kernels::WgmmaTiles::kCount; ++i)
    kernels::WgmmaTiles::with(
        i, [&]<class Tile>() { check<bf16>({.P = Tile::BM + 21, .I = Tile::BN - 3, .O = 77}, kFirstWgmmaTile + i); });
}

TEST_CASE("linear_layer_norm/widths") {
  for (const std::int64_t I : {2, 3, 8, 50, 90, 100}) check<bf16>({.P = 40, .I = I, .O = 13}, I <= 50 ? 4 : 6);
  check<bf16>({.P = 1, .I = 90, .O = 1}, 5);
  check<bf16>({.P = 257, .I = 96, .O = 150}, 5);
}

TEST_CASE("linear_layer_norm/absent operands") {
  check<bf16>({.P = 35, .I = 20, .O = 30, .residual = false}, 1);
  check<bf16>({.P = 35, .I = 20, .O = 30, .d_gamma = false}, 1);
  check<bf16>({.P = 35, .I = 20, .O = 30, .residual = false, .d_gamma = false}, 1);
  check<bf16>({.P = 35, .I = 20, .O = 30, .in_place = true}, 1);
  if (!can_be_arch(90)) return;
  const OnArch arch(90);
  check<bf16>({.P = 35, .I = 20, .O = 30, .residual = false}, kFirstWgmmaTile);
  check<bf16>({.P = 35, .I = 20, .O = 30, .d_gamma = false}, kFirstWgmmaTile);
}

TEST_CASE("linear_layer_norm/one channel has no gradient") {
  const Case c{.P = 5, .I = 1, .O = 7, .residual = false};
  const Outputs<bf16> o = run<bf16>(c, 0);
  for (const double v : o.d_x.values()) CHECK(v == 0);
  CHECK(o.d_gamma.values()[0] == 0);
}

TEST_CASE("linear_layer_norm/in_every_order") {
  for (const int tile : {1, kFirstWgmmaTile}) {
    const int version = tile < kFirstWgmmaTile ? 80 : 90;
    if (!can_be_arch(version)) continue;
    const OnArch arch(version);
    const Case c{.P = 300, .I = 27, .O = 40};
    std::vector<std::string> first[2];
    for_each_order([&] {
      const Outputs<bf16> o = run<bf16>(c, tile);
      if (first[0].empty()) first[0] = o.d_x.bytes(), first[1] = o.d_gamma.bytes();
      CHECK(o.d_x.bytes() == first[0]);
      CHECK(o.d_gamma.bytes() == first[1]);
    });
    check<bf16>(c, tile);
  }
}

TEST_CASE("linear_layer_norm/the op") {
  for (const int version : {80, 90}) {
    if (!can_be_arch(version)) continue;
    const OnArch arch(version);
    check<bf16>({.P = 70, .I = 13, .O = 50}, kTheOp);   // one kernel
    check<bf16>({.P = 70, .I = 300, .O = 50}, kTheOp);  // two
    check<float>({.P = 70, .I = 30, .O = 50}, kTheOp);
    check<bf16>({.P = 70, .I = 13, .O = 50, .residual = false, .d_gamma = false}, kTheOp);
    CHECK(kernels::linear_layer_norm_bwd_is_one_kernel<Sim, bf16>({.P = 70, .I = 13, .O = 50}));
    CHECK_FALSE(kernels::linear_layer_norm_bwd_is_one_kernel<Sim, bf16>({.P = 70, .I = 300, .O = 50}));
    CHECK_FALSE(kernels::linear_layer_norm_bwd_is_one_kernel<Sim, float>({.P = 70, .I = 13, .O = 50}));
    CHECK_FALSE(kernels::linear_layer_norm_bwd_is_one_kernel<Sim, bf16>({.P = 0, .I = 13, .O = 50}));
    CHECK_FALSE(kernels::linear_layer_norm_bwd_is_one_kernel<Sim, bf16>({.P = 70, .I = 13, .I2 = 8, .O = 50}));
    for (const std::int64_t C : {50, 90, 100})
      CHECK(kernels::linear_layer_norm_bwd_is_one_kernel<Sim, bf16>({.P = 1 << 18, .I = C, .O = 1344}));
    CHECK(
        kernels::linear_layer_norm_bwd_is_one_kernel<Sim, bf16>({.P = 1 << 19, .I = 180, .O = 768}) == (version == 90));
  }
}

TEST_CASE("linear_layer_norm/sums of many blocks") {
  const Case c{.P = 128 * 530 + 1, .I = 5, .O = 3};
  const std::int64_t blocks = kernels::layer_norm_grad_blocks<Sim>(
      kernels::conv_products::adjoint_shape<bf16>("test", kernels::conv_products::of_linear(c.size())));
  CHECK(blocks == 531);  // 33 times 16, and three
  const std::vector<double> got = run<bf16>(c, kTheOp).d_gamma.values();
  const std::vector<double> direct = run<bf16>(c, kChooseTile).d_gamma.values();
  CHECK(worst_error(got, direct, 1e-5) < 1.0);
}

TEST_CASE("linear_layer_norm/a row that is not finite has gaps of zeros") {
  const LinearSize s{.P = 2, .I = 3, .O = 8};
  const auto x = DeviceRows<bf16>::random(2, 3, 1), w = DeviceRows<bf16>::random(8, 3, 2);
  auto d_out = DeviceRows<bf16>::random(2, 8, 3), d_x = DeviceRows<bf16>::poisoned(2, 3);
  d_out.at(1)[0] = bf16(std::numeric_limits<float>::quiet_NaN());
  const auto gamma = DeviceRows<float>::random(1, 3, 4);
  Workspace product(kernels::linear_bwd_data_workspace_bytes<bf16>(s));
  kernels::linear_layer_norm_bwd<Sim, bf16>(
      Stream{}, s, w.rows(),
      {.num_rows = 2, .C = 3, .x = x.rows(), .gamma = gamma.rows().data, .eps = 1e-5f, .out = {}},
      {.d_out = d_out.rows(), .d_residual = {}, .d_h = {}, .d_x = d_x.rows(), .linear_space = product.data()});
  CHECK(std::isfinite(static_cast<float>(d_x.at(0)[2])));
  CHECK(std::isnan(static_cast<float>(d_x.at(1)[2])));
  CHECK(d_x.gaps_are_zero());
}

TEST_CASE("linear_layer_norm/tiles that do not hold rows") {
  CHECK_THROWS_WITH_AS(
      run<bf16>({.P = 9, .I = 100, .O = 8}, 5),
      "gather_gemm: layer_norm: tile 5 does not hold rows of 100 columns | ask layer_norm_grad_blocks first",
      kernels::GpuError);
  kernels::GatherGemm<bf16> p;
  p.out[0].chunks = 13;
  CHECK(kernels::layer_norm_grad_rows(p, 6) == 192);
  CHECK(kernels::layer_norm_grad_rows(p, 7) == 0);  // 128 columns by two warps
  CHECK(kernels::layer_norm_grad_rows(p, kFirstWgmmaTile + 2) == 256);
  CHECK(kernels::layer_norm_grad_rows(p, kFirstWgmmaTile + 1) == 0);
  CHECK(kernels::layer_norm_grad_rows(p, kFirstHaloTile + 2) == 0);
  p.adjoint = true, p.x.stride = 2;
  CHECK(kernels::layer_norm_grad_rows(p, 6) == 0);
  p.x.stride = 1;
  CHECK(kernels::layer_norm_grad_rows(p, 6) == 192);
  p.out[1].chunks = 1;
  CHECK(kernels::layer_norm_grad_rows(p, 6) == 0);
}

}  // namespace avid::test
