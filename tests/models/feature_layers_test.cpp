// tests/models/feature_layers_test.cpp -- the parts of the metric networks against plain loops in f64
#include "models/feature_layers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::features {
namespace {

using kernels::PoolKind;

/// Made-up weights by name: every tensor is random, norms are positive.
WeightReader random_reader() {
  return {
      [](const std::string& name, const Shape& shape) {
        std::uint64_t seed = 7;
        for (const char c : name) seed = seed * 31 + static_cast<unsigned char>(c);
        Tensor t = test::random_tensor(shape, DType::f32, seed, 0.5);
        if (name.ends_with("running_var"))
          for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] += 1;
        return t;
      },
      "random", "test"};
}

double at(const Tensor& x, std::int64_t b, std::int64_t t, std::int64_t y, std::int64_t i, std::int64_t c) {
  return x.data<float>()[(((b * x.dim(1) + t) * x.dim(2) + y) * x.dim(3) + i) * x.pitch() + c];
}

/// f(output position, input position, offset in the kernel) for every tap inside of the input.
template <class F>
void for_each_tap(const Shape& x, const Window& window, F&& f) {
  const Window::Placement place = window.place(x);
  const auto [T, H, W] = place.out;
  const auto& k = window.kernel;
  const auto& s = window.stride;
  for (std::int64_t b = 0; b < x[0]; ++b)
    for (std::int64_t p = 0; p < T * H * W; ++p)
      for (std::int64_t tap = 0; tap < k[0] * k[1] * k[2]; ++tap) {
        const std::int64_t t = p / (H * W) * s[0] - place.front[0] + tap / (k[1] * k[2]),
                           y = p / W % H * s[1] - place.front[1] + tap / k[2] % k[1],
                           i = p % W * s[2] - place.front[2] + tap % k[2];
        if (t < 0 || t >= x[1] || y < 0 || y >= x[2] || i < 0 || i >= x[3]) continue;
        f(b * T * H * W + p, std::array<std::int64_t, 4>{b, t, y, i}, tap);
      }
}

std::vector<Window> windows() {
  return {
      {.kernel = {7, 7, 7}, .stride = {2, 2, 2}, .padding = {}, .same = true},
      {.kernel = {3, 3, 3}, .stride = {1, 1, 1}, .padding = {}, .same = true},
      {.kernel = {1, 3, 3}, .stride = {1, 2, 2}, .padding = {}, .same = true},
      {.kernel = {2, 2, 2}, .stride = {2, 2, 2}, .padding = {}, .same = true},
      {.kernel = {1, 3, 3}, .stride = {1, 2, 2}, .padding = {}},
      {.kernel = {1, 1, 7}, .stride = {1, 1, 1}, .padding = {0, 0, 3}},
      {.kernel = {1, 7, 1}, .stride = {1, 1, 1}, .padding = {0, 3, 0}},
      {.kernel = {1, 5, 5}, .stride = {1, 1, 1}, .padding = {0, 2, 2}},
      {.kernel = {1, 1, 1}, .stride = {1, 1, 1}, .padding = {}},
      {.kernel = {2, 7, 7}, .stride = {1, 1, 1}, .padding = {}}};
}

}  // namespace

TEST_CASE("feature_layers/same/placement_for_the_frame_counts_of_i3d") {
  const Window first{.kernel = {7, 7, 7}, .stride = {2, 2, 2}, .padding = {}, .same = true},
      pool_4a{.kernel = {3, 3, 3}, .stride = {2, 2, 2}, .padding = {}, .same = true},
      pool_5a{.kernel = {2, 2, 2}, .stride = {2, 2, 2}, .padding = {}, .same = true};
  const struct {
    std::int64_t frames;
    std::array<std::int64_t, 3> out, front;  // after the first layer, pool 4a, pool 5a
  } cases[] = {
      {9, {5, 3, 2}, {3, 1, 0}}, {10, {5, 3, 2}, {2, 1, 0}}, {16, {8, 4, 2}, {2, 0, 0}}, {17, {9, 5, 3}, {3, 1, 0}}};
  for (const auto& c : cases) {
    CAPTURE(c.frames);
    std::int64_t frames = c.frames;
    std::size_t layer = 0;
    for (const Window& window : {first, pool_4a, pool_5a}) {
      const Window::Placement place = window.place({1, frames, 224, 224, 3});
      CHECK(place.out[0] == c.out[layer]);
      CHECK(place.front[0] == c.front[layer]);
      CHECK(place.out[1] == 112);
      frames = place.out[0];
      ++layer;
    }
  }
}

TEST_CASE("feature_layers/conv/plain_loops_for_every_window") {
  for (const std::int64_t frames : {9, 10, 16, 17})
    for (const Window& window : windows()) {
      if (frames > 10 && window.kernel[0] == 1) continue;
      CAPTURE(frames);
      CAPTURE(window.kernel[0] * 100 + window.kernel[1] * 10 + window.kernel[2]);
      constexpr std::int64_t kIn = 3, kOut = 5;
      const Tensor x = test::random_tensor({2, frames, 9, 8, kIn}, DType::f32, 3);
      const WeightReader reader = random_reader();
      const ConvUnit unit = ConvUnit::with_bias(reader, "a", kIn, kOut, window, false, 5);
      const Shape weight_shape{kOut, kIn, window.kernel[0], window.kernel[1], window.kernel[2]};
      const std::vector<float> w = reader.take("a.weight", weight_shape), bias = reader.take("a.bias", {kOut});
      const Tensor got = unit.run(x);
      std::vector<double> want(static_cast<std::size_t>(got.numel()));
      for (std::size_t i = 0; i < want.size(); ++i) want[i] = bias[i % kOut];
      const std::int64_t taps = window.kernel[0] * window.kernel[1] * window.kernel[2];
      for_each_tap(x.shape(), window, [&](std::int64_t p, const auto& q, std::int64_t tap) {
        for (std::int64_t o = 0; o < kOut; ++o)
          for (std::int64_t i = 0; i < kIn; ++i)
            want[static_cast<std::size_t>(p * kOut + o)] +=
                w[static_cast<std::size_t>((o * kIn + i) * taps + tap)] * at(x, q[0], q[1], q[2], q[3], i);
      });
      CHECK(test::rel_l2(got, Tensor::from_values(want, got.shape()).to(DType::f32)) < 1e-5);
    }
}

TEST_CASE("feature_layers/norm/stored_statistics_are_folded") {
  const WeightReader reader = random_reader();
  const Window point{.kernel = {1, 1, 1}, .stride = {1, 1, 1}, .padding = {}};
  const Tensor x = test::random_tensor({1, 1, 4, 5, 3}, DType::f32, 5);
  const Tensor got = ConvUnit::with_norm(reader, "c", "n", 3, 4, point, 1e-3).run(x);
  const std::vector<float> w = reader.take("c.weight", {4, 3, 1, 1}), gamma = reader.take("n.weight", {4}),
                           beta = reader.take("n.bias", {4}), mean = reader.take("n.running_mean", {4}),
                           var = reader.take("n.running_var", {4});
  for (std::int64_t p = 0; p < 20; ++p)
    for (std::size_t o = 0; o < 4; ++o) {
      double sum = 0;
      for (std::int64_t i = 0; i < 3; ++i) sum += w[o * 3 + static_cast<std::size_t>(i)] * at(x, 0, 0, p / 5, p % 5, i);
      const double want = std::max((sum - mean[o]) / std::sqrt(var[o] + 1e-3) * gamma[o] + beta[o], 0.0);
      CHECK(std::abs(at(got, 0, 0, p / 5, p % 5, static_cast<std::int64_t>(o)) - want) < 1e-6);
    }
}

TEST_CASE("feature_layers/norm/batch_statistics_give_mean_beta_and_deviation_gamma") {
  const WeightReader reader(
      [](const std::string& name, const Shape& shape) {
        if (name == "n.bias") return Tensor::full(shape, 50);  // far from where ReLU cuts
        if (name == "n.weight") return Tensor::full(shape, 2);
        return test::random_tensor(shape, DType::f32, 11);
      },
      "made up", "test");
  const Window cube{.kernel = {1, 3, 3}, .stride = {1, 1, 1}, .padding = {0, 1, 1}};
  const Tensor x = test::random_tensor({3, 1, 20, 30, 3}, DType::f32, 13);
  const Tensor got = ConvUnit::with_norm(reader, "c", "n", 3, 5, cube, 1e-12, ConvUnit::Norm::batch).run(x);
  for (std::int64_t c = 0; c < 5; ++c) {
    double sum = 0, square = 0;
    for (std::int64_t r = 0; r < got.rows(); ++r) {
      const double v = got.data<float>()[r * got.pitch() + c] - 50;
      sum += v;
      square += v * v;
    }
    CHECK(std::abs(sum / static_cast<double>(got.rows())) < 1e-4);
    CHECK(std::abs(square / static_cast<double>(got.rows()) - 4) < 1e-3);
  }
}

TEST_CASE("feature_layers/pool/plain_loops_for_every_window") {
  const Tensor x = test::random_tensor({2, 9, 9, 8, 6}, DType::f32, 17);
  for (const Window& window : windows())
    for (const PoolKind kind : {PoolKind::max, PoolKind::average}) {
      const Pool pool{kind, window};
      Tensor got = Tensor::empty(pool.out_shape(x.shape()));
      pool.run_into(x, got, 0);
      const double start = kind == PoolKind::max ? -std::numeric_limits<double>::infinity() : 0;
      std::vector<double> want(static_cast<std::size_t>(got.numel()), start), count(want.size(), 0.0);
      for_each_tap(x.shape(), window, [&](std::int64_t p, const auto& q, std::int64_t) {
        for (std::int64_t c = 0; c < 6; ++c) {
          const auto i = static_cast<std::size_t>(p * 6 + c);
          const double v = at(x, q[0], q[1], q[2], q[3], c);
          want[i] = kind == PoolKind::max ? std::max(want[i], v) : want[i] + v;
          count[i] += 1;
        }
      });
      if (kind == PoolKind::average)
        for (std::size_t i = 0; i < want.size(); ++i) want[i] /= count[i];
      CHECK(test::max_abs_diff(got, Tensor::from_values(want, got.shape()).to(DType::f32)) < 1e-6);
    }
}

TEST_CASE("feature_layers/pool/an_average_of_valid_samples_keeps_a_constant_constant") {
  const Pool average{PoolKind::average, {.kernel = {1, 3, 3}, .stride = {1, 1, 1}, .padding = {0, 1, 1}}};
  const Tensor x = Tensor::full({1, 1, 5, 4, 3}, 0.75);
  Tensor out = Tensor::empty(x.shape());
  average.run_into(x, out, 0);
  CHECK(test::max_abs_diff(out, x) < 1e-7);
}

TEST_CASE("feature_layers/block/branches_and_ends_lie_side_by_side") {
  const WeightReader reader = random_reader();
  const Window point{.kernel = {1, 1, 1}, .stride = {1, 1, 1}, .padding = {}},
      padded{.kernel = {1, 3, 3}, .stride = {1, 1, 1}, .padding = {0, 1, 1}};
  const ConvUnit a = ConvUnit::with_bias(reader, "a", 3, 4, point, true),
                 b = ConvUnit::with_bias(reader, "b", 4, 5, padded, true),
                 c = ConvUnit::with_bias(reader, "c", 4, 2, point, true);
  const Pool pool{PoolKind::max, padded};
  const Block block{
      {{.pool = {}, .chain = {a}, .ends = {b, c}},
       {.pool = pool, .chain = {}, .ends = {}},
       {.pool = pool, .chain = {a}, .ends = {}}}};
  const Tensor x = test::random_tensor({2, 1, 6, 7, 3}, DType::f32, 19);
  const Tensor got = block.run(x);  // 5 + 2 + 3 + 4 channels
  REQUIRE(got.shape() == Shape{2, 1, 6, 7, 14});
  CHECK(test::gaps_are_zero(got));
  Tensor pooled = Tensor::empty(x.shape());
  pool.run_into(x, pooled, 0);
  const Tensor parts[] = {b.run(a.run(x)), c.run(a.run(x)), pooled, a.run(pooled)};
  for (std::int64_t r = 0; r < got.rows(); ++r) {
    std::int64_t column = 0;
    for (const Tensor& part : parts)
      for (std::int64_t i = 0; i < part.cols(); ++i, ++column)
        CHECK(got.data<float>()[r * got.pitch() + column] == part.data<float>()[r * part.pitch() + i]);
  }
  const Block crooked{
      {{.pool = {}, .chain = {a}, .ends = {}},
       {.pool = Pool{PoolKind::max, {.kernel = {1, 2, 2}, .stride = {1, 2, 2}, .padding = {}}},
        .chain = {},
        .ends = {}}}};
  CHECK_THROWS_AS(crooked.run(x), ShapeError);
}

TEST_CASE("feature_layers/errors/too_small_and_not_finite") {
  const Window big{.kernel = {1, 7, 7}, .stride = {1, 1, 1}, .padding = {}};
  CHECK_THROWS_WITH_AS(big.place({1, 1, 5, 9, 3}), doctest::Contains("too small"), ShapeError);
  const WeightReader reader(
      [](const std::string&, const Shape& shape) { return Tensor::full(shape, NAN); }, "f", "net");
  CHECK_THROWS_WITH_AS(reader.take("w", {2}), doctest::Contains("not finite"), FileError);
}

}  // namespace avid::features
