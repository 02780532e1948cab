// tests/kernels/conv3d_test.cpp -- conv3d: values worked by hand, the f64 reference, and the f32 path against it
#include "kernels/conv3d.h"

#include <cmath>

#include "kernels/dispatch_stats.h"
#include "kernels/threads.h"
#include "tensor/ops/conv3d.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::gaps_are_zero, test::random_tensor, test::rel_l2, test::same_bits;

namespace {

/// The equation once more, written for clarity only: channels-last f64 with x2 concatenated.
std::vector<double> by_equation(
    const std::vector<double>& x, const Shape& xs, const std::vector<double>& w, const Shape& ws,
    const std::vector<double>& bias, const Conv3dOptions& o, const Shape& out) {
  std::vector<double> result;
  const auto at = [&](std::int64_t b, std::int64_t t, std::int64_t y, std::int64_t v, std::int64_t c) {
    if (t < 0 || t >= xs[1] || y < 0 || y >= xs[2] || v < 0 || v >= xs[3]) return 0.0;
    return x[static_cast<std::size_t>((((b * xs[1] + t) * xs[2] + y) * xs[3] + v) * xs[4] + c)];
  };
  for (std::int64_t b = 0; b < out[0]; ++b)
    for (std::int64_t t = 0; t < out[1]; ++t)
      for (std::int64_t y = 0; y < out[2]; ++y)
        for (std::int64_t v = 0; v < out[3]; ++v)
          for (std::int64_t c = 0; c < out[4]; ++c) {
            double sum = bias.empty() ? 0.0 : bias[static_cast<std::size_t>(c)];
            std::size_t k = static_cast<std::size_t>(c * ws[1] * ws[2] * ws[3] * ws[4]);
            for (std::int64_t kt = 0; kt < ws[1]; ++kt)
              for (std::int64_t ky = 0; ky < ws[2]; ++ky)
                for (std::int64_t kx = 0; kx < ws[3]; ++kx)
                  for (std::int64_t i = 0; i < ws[4]; ++i)
                    sum += w[k++] * at(b, t * o.stride[0] - o.padding[0] + kt, y * o.stride[1] - o.padding[1] + ky,
                                       v * o.stride[2] - o.padding[2] + kx, i);
            result.push_back(sum);
          }
  return result;
}

Tensor joined(const Tensor& x, const Tensor& x2) {
  if (!x2.defined()) return x;
  std::vector<double> values;
  const auto a = x.to_doubles(), b = x2.to_doubles();
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    values.insert(values.end(), a.begin() + r * x.cols(), a.begin() + (r + 1) * x.cols());
    values.insert(values.end(), b.begin() + r * x2.cols(), b.begin() + (r + 1) * x2.cols());
  }
  return Tensor::from_values(values, x.shape().with_cols(x.cols() + x2.cols()));
}

struct Case {
  Shape x, w;
  Conv3dOptions options;
  Shape x2{};
};

/// f32 against f64 of the same rounded inputs, forward and all gradients; gaps; the same bits with one thread.
void check_f32(const Case& c) {
  INFO(
      "x " << c.x.to_string() << " x2 " << c.x2.to_string() << " w " << c.w.to_string() << " stride "
           << c.options.stride[1] << " padding " << c.options.padding[1]);
  const Tensor x = random_tensor(c.x, DType::f32, 1), w = random_tensor(c.w, DType::f32, 2);
  const Tensor bias = random_tensor({c.w[0]}, DType::f32, 3);
  const Tensor x2 = c.x2.rank() ? random_tensor(c.x2, DType::f32, 4) : Tensor();
  const auto f64 = [](const Tensor& t) { return t.defined() ? t.to(DType::f64) : Tensor(); };

  const Tensor out = conv3d(x, w, bias, c.options, x2);
  const Tensor expected = conv3d(f64(x), f64(w), f64(bias), c.options, f64(x2));
  CHECK(rel_l2(out.to(DType::f64), expected) < 1e-6);
  CHECK(gaps_are_zero(out));

  const Tensor g = random_tensor(out.shape(), DType::f32, 5);
  const auto data = conv3d_bwd_data(g, w, c.x, c.x2, c.options);
  const auto data_expected = conv3d_bwd_data(f64(g), f64(w), c.x, c.x2, c.options);
  CHECK(rel_l2(data.d_x.to(DType::f64), data_expected.d_x) < 1e-6);
  CHECK(gaps_are_zero(data.d_x));
  if (x2.defined()) {
    CHECK(rel_l2(data.d_x2.to(DType::f64), data_expected.d_x2) < 1e-6);
    CHECK(gaps_are_zero(data.d_x2));
    const auto only = conv3d_bwd_data(g, w, c.x, c.x2, c.options, false, true);
    CHECK(!only.d_x.defined());
    CHECK(same_bits(only.d_x2, data.d_x2));
  }
  const auto weight = conv3d_bwd_weight(g, x, x2, c.w, c.options);
  const auto weight_expected = conv3d_bwd_weight(f64(g), f64(x), f64(x2), c.w, c.options);
  CHECK(rel_l2(weight.d_w.to(DType::f64), weight_expected.d_w) < 2e-6);
  CHECK(rel_l2(weight.d_bias.to(DType::f64), weight_expected.d_bias) < 2e-6);
  CHECK(gaps_are_zero(weight.d_w));
  CHECK(
      rel_l2(conv3d_bwd_weight(g, {}, {}, c.w, c.options, false).d_bias.to(DType::f64), weight_expected.d_bias) < 2e-6);

  const int threads = kernels::num_threads();
  for (const int other : {1, 5}) {
    kernels::set_num_threads(other);
    CHECK(same_bits(conv3d(x, w, bias, c.options, x2), out));
    CHECK(same_bits(conv3d_bwd_data(g, w, c.x, c.x2, c.options).d_x, data.d_x));
    const auto again = conv3d_bwd_weight(g, x, x2, c.w, c.options);
    CHECK(same_bits(again.d_w, weight.d_w));
    CHECK(same_bits(again.d_bias, weight.d_bias));
  }
  kernels::set_num_threads(threads);
}

}  // namespace

TEST_CASE("conv3d/by hand/3x3 on a 3x3 frame") {
  // A frame 1..9, a kernel that picks the left neighbour minus the lower one, bias 0.5.
  const Tensor x = Tensor::from_values(std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 1, 3, 3, 1});
  const Tensor w = Tensor::from_values(std::vector<double>{0, 0, 0, 1, 0, 0, 0, -1, 0}, {1, 1, 3, 3, 1});
  const Tensor bias = Tensor::from_values(std::vector<double>{0.5}, {1});
  const std::vector<double> expected = {-3.5, -3.5, -3.5, -6.5, -3.5, -3.5, 0.5, 7.5, 8.5};
  CHECK(conv3d(x, w, bias, {.padding = {0, 1, 1}}).to_doubles() == expected);
  CHECK(
      conv3d(x.to(DType::f32), w.to(DType::f32), bias.to(DType::f32), {.padding = {0, 1, 1}}).to_doubles() == expected);
  // Gradients of the sum of out: each input is a left neighbour of the one to its right, a lower one of the one above
  // it.
  const Tensor ones = Tensor::full({1, 1, 3, 3, 1}, 1, DType::f64);
  const std::vector<double> d_x = {1, 1, 0, 0, 0, -1, 0, 0, -1};
  CHECK(conv3d_bwd_data(ones, w, x.shape(), {}, {.padding = {0, 1, 1}}).d_x.to_doubles() == d_x);
  const auto weight = conv3d_bwd_weight(ones, x, {}, w.shape(), {.padding = {0, 1, 1}});
  CHECK(weight.d_w.to_doubles() == std::vector<double>{12, 21, 16, 27, 45, 33, 24, 39, 28});
  CHECK(weight.d_bias.to_doubles() == std::vector<double>{9});
}

TEST_CASE("conv3d/reference/equals the equation for all extents and strides") {
  const std::vector<Case> cases = {
      {{2, 3, 4, 5, 3}, {4, 1, 3, 3, 3}, {.padding = {0, 1, 1}}},
      {{1, 4, 5, 6, 2}, {3, 3, 2, 3, 2}, {.stride = {2, 1, 3}, .padding = {1, 0, 2}}},
      {{1, 1, 6, 7, 3}, {2, 1, 4, 4, 7}, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}, {1, 1, 6, 7, 4}}};
  for (const Case& c : cases) {
    const Tensor x = random_tensor(c.x, DType::f64, 1), w = random_tensor(c.w, DType::f64, 2);
    const Tensor bias = random_tensor({c.w[0]}, DType::f64, 3),
                 x2 = c.x2.rank() ? random_tensor(c.x2, DType::f64, 4) : Tensor();
    const Tensor out = conv3d(x, w, bias, c.options, x2), both = joined(x, x2);
    const auto expected =
        by_equation(both.to_doubles(), both.shape(), w.to_doubles(), c.w, bias.to_doubles(), c.options, out.shape());
    CHECK(rel_l2(out, Tensor::from_values(expected, out.shape())) < 1e-14);
    // <g, conv(x)> = <d_x, x> = <d_w, w> without bias: both gradients are adjoints of the same bilinear map.
    const Tensor g = random_tensor(out.shape(), DType::f64, 5);
    const auto dot = [](const Tensor& a, const Tensor& b) {
      const auto u = a.to_doubles(), v = b.to_doubles();
      double sum = 0;
      for (std::size_t i = 0; i < u.size(); ++i) sum += u[i] * v[i];
      return sum;
    };
    const double value = dot(g, conv3d(x, w, {}, c.options, x2));
    const auto data = conv3d_bwd_data(g, w, c.x, c.x2, c.options);
    CHECK(dot(data.d_x, x) + (x2.defined() ? dot(data.d_x2, x2) : 0) == doctest::Approx(value).epsilon(1e-12));
    CHECK(dot(conv3d_bwd_weight(g, x, x2, c.w, c.options).d_w, w) == doctest::Approx(value).epsilon(1e-12));
  }
}

TEST_CASE("conv3d/f32/awkward channel counts") {
  for (const std::int64_t i : {1, 3, 7, 9, 12, 50}) {
    for (const std::int64_t o : {1, 3, 16, 17, 50})
      check_f32({{1, 2, 5, 7, i}, {o, 1, 3, 3, i}, {.padding = {0, 1, 1}}});
  }
}

TEST_CASE("conv3d/f32/kernels, strides and paddings of the network") {
  check_f32({{2, 2, 9, 11, 9}, {12, 1, 7, 7, 9}, {.padding = {0, 3, 3}}});
  check_f32({{2, 2, 8, 8, 12}, {12, 1, 4, 4, 12}, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}});
  check_f32({{1, 1, 7, 9, 5}, {6, 1, 4, 4, 5}, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}});
  check_f32({{2, 8, 8, 8, 48}, {64, 1, 3, 3, 48}, {.padding = {0, 1, 1}}});
  check_f32({{1, 3, 32, 32, 16}, {16, 1, 3, 3, 16}, {.padding = {0, 1, 1}}});
}

TEST_CASE("conv3d/f32/unusual geometry") {
  check_f32({{1, 1, 1, 1, 4}, {4, 1, 3, 3, 4}, {.padding = {0, 1, 1}}});
  check_f32({{1, 2, 4, 6, 3}, {5, 1, 1, 1, 3}, {.padding = {0, 1, 2}}});  // padding wider than the kernel
  check_f32(
      {{1, 2, 7, 8, 3}, {5, 1, 2, 2, 3}, {.stride = {1, 3, 3}, .padding = {0, 0, 0}}});  // inputs that no output reads
  check_f32({{1, 1, 6, 5, 4}, {3, 1, 5, 2, 4}, {.stride = {1, 1, 2}, .padding = {0, 4, 0}}});
  check_f32({{1, 1, 40, 3, 70}, {130, 1, 3, 3, 70}, {.padding = {0, 1, 1}}});
}

TEST_CASE("conv3d/f32/two inputs") {
  check_f32({{1, 2, 6, 6, 7}, {12, 1, 3, 3, 20}, {.padding = {0, 1, 1}}, {1, 2, 6, 6, 13}});
  check_f32({{2, 1, 8, 8, 32}, {16, 1, 3, 3, 48}, {.padding = {0, 1, 1}}, {2, 1, 8, 8, 16}});
}

TEST_CASE("conv3d/f32/no frames at all") {
  const Tensor x = Tensor::zeros({0, 2, 4, 4, 3}), w = random_tensor({5, 1, 3, 3, 3}, DType::f32, 1);
  const Tensor out = conv3d(x, w, {}, {.padding = {0, 1, 1}});
  CHECK(out.shape() == Shape{0, 2, 4, 4, 5});
  CHECK(conv3d_bwd_data(out, w, x.shape(), {}, {.padding = {0, 1, 1}}).d_x.shape() == x.shape());
  const auto weight = conv3d_bwd_weight(out, x, {}, w.shape(), {.padding = {0, 1, 1}});
  CHECK(rel_l2(weight.d_w, Tensor::zeros(w.shape())) == 0);
  CHECK(rel_l2(weight.d_bias, Tensor::zeros({5})) == 0);
}

TEST_CASE("conv3d/f32/extent in time takes the counted slow path") {
  kernels::reset_slow_path_counts();
  check_f32({{1, 4, 3, 3, 2}, {3, 3, 1, 1, 2}, {.padding = {1, 0, 0}}});
  CHECK(kernels::slow_path_count("conv3d", "extent in time") == 3);  // two more with other thread counts
  kernels::reset_slow_path_counts();
  check_f32({{1, 4, 3, 3, 2}, {3, 1, 3, 3, 2}, {.padding = {0, 1, 1}}});
  CHECK(kernels::slow_path_counts().empty());
}

TEST_CASE("conv3d/errors/name the argument") {
  const Tensor x = Tensor::zeros({1, 2, 4, 4, 3}), w = Tensor::zeros({5, 1, 3, 3, 3});
  CHECK_THROWS_WITH_AS(
      conv3d(Tensor::zeros({2, 4, 4, 3}), w), "conv3d: x: expected rank 5 [B,T,H,W,I], got [2,4,4,3]", ShapeError);
  CHECK_THROWS_AS(conv3d(x, Tensor::zeros({5, 1, 3, 3, 4})), ShapeError);
  CHECK_THROWS_AS(conv3d(x, w, Tensor::zeros({4})), ShapeError);
  CHECK_THROWS_AS(conv3d(x, Tensor::zeros({5, 1, 7, 7, 3})), ShapeError);
  CHECK_THROWS_AS(conv3d(x, w, {}, {.stride = {1, 0, 1}}), ShapeError);
  CHECK_THROWS_AS(conv3d(x, w, {}, {}, Tensor::zeros({1, 2, 4, 5, 3})), ShapeError);
  CHECK_THROWS_AS(conv3d(x, w.to(DType::f64)), DTypeError);
  CHECK_THROWS_AS(conv3d(x.to(DType::i32), w), DTypeError);
  CHECK_THROWS_AS(conv3d_bwd_data(x, w, x.shape(), {}, {}), ShapeError);
}
