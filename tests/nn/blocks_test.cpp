// tests/nn/blocks_test.cpp -- building blocks: shapes, shortcuts, rotary frequencies
#include "nn/blocks.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"
#include "tests/support.h"

namespace avid::nn {
namespace {

Tensor concatenate(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  std::vector<double> values;
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    values.insert(values.end(), x.begin() + r * a.cols(), x.begin() + (r + 1) * a.cols());
    values.insert(values.end(), y.begin() + r * b.cols(), y.begin() + (r + 1) * b.cols());
  }
  return Tensor::from_values(values, a.shape().with_cols(a.cols() + b.cols()));
}

}  // namespace

TEST_CASE("blocks/rotary_frequencies/by_head_width") {
  const auto expect = [](std::int64_t head_dim, std::int64_t count, double last) {
    const Tensor f = rotary_frequencies(head_dim);
    CHECK(f.numel() == count);
    CHECK(f.dtype() == DType::f32);
    CHECK(f.to_doubles().front() == 1);
    CHECK(std::abs(f.to_doubles().back() / last - 1) < 1e-6);
  };
  expect(64, 16, 1.77828e-4 * 1.0000002);
  expect(50, 16, std::pow(10000.0, -30.0 / 32));
  expect(24, 12, std::pow(10000.0, -22.0 / 24));  // narrower than 32: all channels rotate
  CHECK_THROWS_AS(rotary_frequencies(7), ConfigError);
}

TEST_CASE("blocks/resnet/two_inputs_equal_their_concatenation") {
  // 5 + 3 channels: once with a 1x1 shortcut (8 -> 6), once with the identity (8 -> 8).
  for (const std::int64_t out : {6, 8}) {
    ResNetBlock block(8, out, 4);
    block.initialize(3, DType::f64);
    const Tensor a = test::random_tensor({2, 2, 4, 4, 5}, DType::f64, 1),
                 b = test::random_tensor({2, 2, 4, 4, 3}, DType::f64, 2);
    const Var film(test::random_tensor({2, 2, 4}, DType::f64, 3));
    const Tensor two = block.forward(Var(a), Var(b), film).value(),
                 one = block.forward(Var(concatenate(a, b)), {}, film).value();
    CHECK(two.shape() == Shape({2, 2, 4, 4, out}));
    CHECK(test::rel_l2(two, one) < 1e-13);
  }
}

TEST_CASE("blocks/resnet/film_acts_per_frame") {
  ResNetBlock block(4, 4, 6);
  block.initialize(3, DType::f64);
  const Var x(test::random_tensor({1, 3, 4, 4, 4}, DType::f64, 1));
  Tensor film = test::random_tensor({1, 3, 6}, DType::f64, 2);
  const Tensor before = block.forward(x, {}, Var(film)).value();
  film = film.clone();
  film.data<double>()[1 * film.pitch()] += 1;  // frame 1
  const Tensor after = block.forward(x, {}, Var(film)).value();
  CHECK(test::same_bits(before.select(0).slice(0, 1), after.select(0).slice(0, 1)));
  CHECK_FALSE(test::same_bits(before.select(0).slice(1, 2), after.select(0).slice(1, 2)));
  CHECK(test::same_bits(before.select(0).slice(2, 3), after.select(0).slice(2, 3)));
}

TEST_CASE("blocks/resnet/without_film") {
  ResNetBlock block(4, 2, 0);
  CHECK(block.parameters().size() == 8);  // no mlp; res_conv
  block.initialize(3);
  CHECK(
      block.forward(Var(test::random_tensor({1, 1, 2, 2, 4}, DType::f32, 1)), {}, {}).shape() ==
      Shape({1, 1, 2, 2, 2}));
}

TEST_CASE("blocks/downsample_upsample/shapes") {
  Downsample down(3);
  Upsample up(3);
  down.initialize(1);
  up.initialize(1);
  const Var x(test::random_tensor({2, 2, 6, 8, 3}, DType::f32, 1));
  CHECK(down.forward(x).shape() == Shape({2, 2, 3, 4, 3}));
  CHECK(up.forward(x).shape() == Shape({2, 2, 12, 16, 3}));
}

TEST_CASE("blocks/time_mlp/gradients") {
  TimeMlp mlp(6);
  mlp.initialize(2, DType::f64);
  const Tensor t = Tensor::from_values(std::vector<std::int64_t>{0, 150}, {2});
  const Var code = mlp.forward(t);
  CHECK(code.shape() == Shape({2, 24}));
  code.backward(Tensor::full({2, 24}, 1.0, DType::f64));
  CHECK(mlp.export_gradients().size() == 4);
}

}  // namespace avid::nn
