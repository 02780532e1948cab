// tests/kernels/linear_test.cpp -- linear: values worked by hand, and the f32 path against the f64 reference
#include "kernels/linear.h"

#include "kernels/threads.h"
#include "tensor/ops/linear.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::gaps_are_zero, test::random_tensor, test::rel_l2, test::same_bits;

namespace {

void check_f32(const Shape& x_shape, std::int64_t O, std::int64_t I2, bool with_residual) {
  INFO("x " << x_shape.to_string() << " I2 " << I2 << " O " << O);
  const Tensor x = random_tensor(x_shape, DType::f32, 1), w = random_tensor({O, x_shape.cols() + I2}, DType::f32, 2);
  const Tensor bias = random_tensor({O}, DType::f32, 3);
  const Tensor x2 = I2 > 0 ? random_tensor(x_shape.with_cols(I2), DType::f32, 4) : Tensor();
  const Tensor residual = with_residual ? random_tensor(x_shape.with_cols(O), DType::f32, 5) : Tensor();
  const Shape x2_shape = I2 > 0 ? x2.shape() : Shape{};
  const auto f64 = [](const Tensor& t) { return t.defined() ? t.to(DType::f64) : Tensor(); };
  const Tensor out = linear(x, w, bias, x2, residual);
  CHECK(rel_l2(f64(out), linear(f64(x), f64(w), f64(bias), f64(x2), f64(residual))) < 1e-6);
  CHECK(gaps_are_zero(out));
  const Tensor g = random_tensor(out.shape(), DType::f32, 6);
  const auto data = linear_bwd_data(g, w, x_shape, x2_shape);
  const auto data_expected = linear_bwd_data(f64(g), f64(w), x_shape, x2_shape);
  CHECK(rel_l2(f64(data.d_x), data_expected.d_x) < 1e-6);
  CHECK(gaps_are_zero(data.d_x));
  if (I2 > 0) {
    CHECK(rel_l2(f64(data.d_x2), data_expected.d_x2) < 1e-6);
    CHECK(gaps_are_zero(data.d_x2));
  }
  const auto weight = linear_bwd_weight(g, x, x2, w.shape());
  const auto weight_expected = linear_bwd_weight(f64(g), f64(x), f64(x2), w.shape());
  CHECK(rel_l2(f64(weight.d_w), weight_expected.d_w) < 2e-6);
  CHECK(rel_l2(f64(weight.d_bias), weight_expected.d_bias) < 2e-6);
  CHECK(rel_l2(f64(linear_bwd_weight(g, {}, {}, w.shape(), false).d_bias), weight_expected.d_bias) < 2e-6);
  CHECK(gaps_are_zero(weight.d_w));
  const int threads = kernels::num_threads();
  for (const int other : {1, 5}) {
    kernels::set_num_threads(other);
    CHECK(same_bits(linear(x, w, bias, x2, residual), out));
    CHECK(same_bits(linear_bwd_weight(g, x, x2, w.shape()).d_w, weight.d_w));
    CHECK(same_bits(linear_bwd_weight(g, x, x2, w.shape()).d_bias, weight.d_bias));
  }
  kernels::set_num_threads(threads);
}

}  // namespace

TEST_CASE("linear/by hand/two rows") {
  const Tensor x = Tensor::from_values(std::vector<double>{1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor w = Tensor::from_values(std::vector<double>{1, 0, -1, 2, 1, 0.5}, {2, 3});
  const Tensor bias = Tensor::from_values(std::vector<double>{10, 20}, {2});
  const Tensor residual = Tensor::from_values(std::vector<double>{0, 1, 2, 3}, {2, 2});
  const std::vector<double> expected = {8, 26.5, 10, 39};
  CHECK(linear(x, w, bias, {}, residual).to_doubles() == expected);
  CHECK(
      linear(x.to(DType::f32), w.to(DType::f32), bias.to(DType::f32), {}, residual.to(DType::f32)).to_doubles() ==
      expected);
  const Tensor g = Tensor::from_values(std::vector<double>{1, 2, 3, 4}, {2, 2});
  CHECK(linear_bwd_data(g, w, x.shape(), {}).d_x.to_doubles() == std::vector<double>{5, 2, 0, 11, 4, -1});
  const auto weight = linear_bwd_weight(g, x, {}, w.shape());
  CHECK(weight.d_w.to_doubles() == std::vector<double>{13, 17, 21, 18, 24, 30});
  CHECK(weight.d_bias.to_doubles() == std::vector<double>{4, 6});
}

TEST_CASE("linear/by hand/a second input takes the later columns") {
  const Tensor x = Tensor::from_values(std::vector<double>{1, 2}, {2, 1}),
               x2 = Tensor::from_values(std::vector<double>{3, 4, 5, 6}, {2, 2});
  const Tensor w = Tensor::from_values(std::vector<double>{100, 10, 1}, {1, 3});
  CHECK(linear(x, w, {}, x2).to_doubles() == std::vector<double>{134, 256});
  CHECK(
      linear(x.to(DType::f32), w.to(DType::f32), {}, x2.to(DType::f32)).to_doubles() == std::vector<double>{134, 256});
}

TEST_CASE("linear/f32/awkward sizes") {
  for (const std::int64_t i : {1, 3, 7, 12, 50})
    for (const std::int64_t o : {1, 3, 4, 16, 17, 50, 100}) check_f32({3, 5, i}, o, 0, o % 2 == 0);
  check_f32({1}, 1, 0, false);
  check_f32({2, 3, 8, 8, 33}, 24, 17, true);
  check_f32({1031, 20}, 130, 7, true);
  check_f32({300, 160}, 96, 0, false);
}

TEST_CASE("linear/f32/no rows at all") {
  const Tensor x = Tensor::zeros({0, 3}), w = random_tensor({5, 3}, DType::f32, 1);
  const Tensor out = linear(x, w);
  CHECK(out.shape() == Shape{0, 5});
  CHECK(rel_l2(linear_bwd_weight(out, x, {}, w.shape()).d_w, Tensor::zeros({5, 3})) == 0);
  CHECK(linear_bwd_data(out, w, x.shape(), {}).d_x.shape() == x.shape());
}

TEST_CASE("linear/errors/name the argument") {
  const Tensor x = Tensor::zeros({2, 3}), w = Tensor::zeros({5, 3});
  CHECK_THROWS_WITH_AS(
      linear(x, Tensor::zeros({5, 4})), "linear: w: expected 3 columns (x is [2,3], x2 has 0 channels), got [5,4]",
      ShapeError);
  CHECK_THROWS_AS(linear(x, w, Tensor::zeros({4})), ShapeError);
  CHECK_THROWS_AS(linear(x, w, {}, {}, Tensor::zeros({2, 4})), ShapeError);
  CHECK_THROWS_AS(linear(x, w, {}, Tensor::zeros({3, 2})), ShapeError);
  CHECK_THROWS_AS(linear(x, w.to(DType::f64)), DTypeError);
  CHECK_THROWS_AS(linear(Tensor(), w), ShapeError);
}
