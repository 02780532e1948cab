// tests/kernels/conv_transpose3d_test.cpp -- the reference by hand and as an adjoint, the f32 path against it
#include "kernels/conv_transpose3d.h"

#include "kernels/dispatch_stats.h"
#include "kernels/threads.h"
#include "tensor/ops/conv_transpose3d.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::gaps_are_zero, test::random_tensor, test::rel_l2, test::same_bits;

namespace {

const Conv3dOptions kUp{.stride = {1, 2, 2}, .padding = {0, 1, 1}};

void check_f32(const Shape& x_shape, const Shape& w_shape, const Conv3dOptions& options) {
  INFO("x " << x_shape.to_string() << " w " << w_shape.to_string());
  const Tensor x = random_tensor(x_shape, DType::f32, 1), w = random_tensor(w_shape, DType::f32, 2);
  const Tensor bias = random_tensor({w_shape.cols()}, DType::f32, 3);
  const auto f64 = [](const Tensor& t) { return t.to(DType::f64); };
  const Tensor out = conv_transpose3d(x, w, bias, options);
  CHECK(rel_l2(f64(out), conv_transpose3d(f64(x), f64(w), f64(bias), options)) < 1e-6);
  CHECK(gaps_are_zero(out));
  const Tensor g = random_tensor(out.shape(), DType::f32, 4);
  const Tensor d_x = conv_transpose3d_bwd_data(g, w, x_shape, options);
  CHECK(rel_l2(f64(d_x), conv_transpose3d_bwd_data(f64(g), f64(w), x_shape, options)) < 1e-6);
  CHECK(gaps_are_zero(d_x));
  const auto weight = conv_transpose3d_bwd_weight(g, x, w_shape, options);
  const auto weight_expected = conv_transpose3d_bwd_weight(f64(g), f64(x), w_shape, options);
  CHECK(rel_l2(f64(weight.d_w), weight_expected.d_w) < 2e-6);
  CHECK(rel_l2(f64(weight.d_bias), weight_expected.d_bias) < 2e-6);
  CHECK(gaps_are_zero(weight.d_w));
  const int threads = kernels::num_threads();
  kernels::set_num_threads(1);
  CHECK(same_bits(conv_transpose3d(x, w, bias, options), out));
  CHECK(same_bits(conv_transpose3d_bwd_weight(g, x, w_shape, options).d_w, weight.d_w));
  kernels::set_num_threads(threads);
}

}  // namespace

TEST_CASE("conv_transpose3d/by hand/one pixel spreads over its window") {
  // out[2y-1+i, 2x-1+j] += in[y,x] w[i,j]: of the 4x4 window of the only pixel, the inner 2x2 lies inside.
  std::vector<double> kernel(16);
  for (std::size_t k = 0; k < 16; ++k) kernel[k] = static_cast<double>(k);
  const Tensor w = Tensor::from_values(kernel, {1, 1, 4, 4, 1});
  const Tensor x = Tensor::from_values(std::vector<double>{2}, {1, 1, 1, 1, 1});
  const Tensor bias = Tensor::from_values(std::vector<double>{1}, {1});
  const std::vector<double> expected = {11, 13, 19, 21};  // 2 * {5,6,9,10} + 1
  CHECK(conv_transpose3d(x, w, bias, kUp).to_doubles() == expected);
  CHECK(conv_transpose3d(x.to(DType::f32), w.to(DType::f32), bias.to(DType::f32), kUp).to_doubles() == expected);
  const Tensor g = Tensor::from_values(std::vector<double>{1, 10, 100, 1000}, {1, 1, 2, 2, 1});
  CHECK(conv_transpose3d_bwd_data(g, w, x.shape(), kUp).to_doubles() == std::vector<double>{5 + 60 + 900 + 10000});
  const auto weight = conv_transpose3d_bwd_weight(g, x, w.shape(), kUp);
  CHECK(weight.d_w.to_doubles() == std::vector<double>{0, 0, 0, 0, 0, 2, 20, 0, 0, 200, 2000, 0, 0, 0, 0, 0});
  CHECK(weight.d_bias.to_doubles() == std::vector<double>{1111});
}

TEST_CASE("conv_transpose3d/property_22/the adjoint of the downsample convolution") {
  // <down(a), b> = <a, up(b)> with the same weights: [O,1,4,4,I] of the convolution is [I',1,4,4,O'] of the transposed
  // one.
  for (const DType dtype : {DType::f64, DType::f32}) {
    const Tensor w = random_tensor({6, 1, 4, 4, 5}, dtype, 1), a = random_tensor({2, 2, 8, 12, 5}, dtype, 2);
    const Tensor down = conv3d(a, w, {}, kUp), b = random_tensor(down.shape(), dtype, 3);
    CHECK(down.shape() == Shape{2, 2, 4, 6, 6});
    const Tensor up = conv_transpose3d(b, w, {}, kUp);
    CHECK(up.shape() == a.shape());
    const auto dot = [](const Tensor& u, const Tensor& v) {
      const auto p = u.to_doubles(), q = v.to_doubles();
      double sum = 0;
      for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] * q[i];
      return sum;
    };
    CHECK(dot(down, b) == doctest::Approx(dot(a, up)).epsilon(dtype == DType::f64 ? 1e-13 : 1e-5));
    // ... and it is the data gradient of that convolution.
    CHECK(rel_l2(up, conv3d_bwd_data(b, w, a.shape(), {}, kUp).d_x) < (dtype == DType::f64 ? 1e-14 : 1e-6));
  }
}

TEST_CASE("conv_transpose3d/f32/awkward sizes") {
  for (const std::int64_t c : {1, 3, 7, 12, 50}) check_f32({1, 2, 3, 5, c}, {c, 1, 4, 4, c}, kUp);
  check_f32({2, 2, 8, 8, 24}, {24, 1, 4, 4, 24}, kUp);
  check_f32({1, 1, 1, 1, 5}, {5, 1, 4, 4, 3}, kUp);
  check_f32(
      {1, 1, 4, 3, 5}, {5, 1, 3, 2, 7},
      {.stride = {1, 3, 1}, .padding = {0, 0, 0}});  // a stride wider than its taps reach
  check_f32({1, 1, 4, 3, 5}, {5, 1, 2, 2, 7}, {.stride = {1, 3, 3}, .padding = {0, 0, 0}});
}

TEST_CASE("conv_transpose3d/f32/extent in time takes the counted slow path") {
  kernels::reset_slow_path_counts();
  check_f32({1, 2, 3, 3, 2}, {2, 2, 3, 3, 3}, {});
  CHECK(kernels::slow_path_count("conv_transpose3d", "extent in time") == 2);
  kernels::reset_slow_path_counts();
}

TEST_CASE("conv_transpose3d/errors/name the argument") {
  const Tensor x = Tensor::zeros({1, 2, 4, 4, 3}), w = Tensor::zeros({3, 1, 4, 4, 5});
  CHECK_THROWS_AS(conv_transpose3d(x, Tensor::zeros({5, 1, 4, 4, 3}), {}, kUp), ShapeError);
  CHECK_THROWS_AS(conv_transpose3d(x, w, Tensor::zeros({3}), kUp), ShapeError);
  CHECK_THROWS_AS(
      conv_transpose3d(Tensor::zeros({1, 1, 1, 1, 3}), Tensor::zeros({3, 1, 1, 1, 5}), {}, kUp), ShapeError);
  CHECK_THROWS_AS(conv_transpose3d(x, w.to(DType::f64), {}, kUp), DTypeError);
}
