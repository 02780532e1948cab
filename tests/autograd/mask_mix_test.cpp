// tests/autograd/mask_mix_test.cpp -- values, gradients, properties and errors of mask_mix
#include "autograd/ops/mask_mix.h"

#include <omp.h>

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

namespace {

Var scalar(double v, DType dtype = DType::f32) { return Var(Tensor::full({1}, v, dtype)); }

struct Inputs {
  Var base, adapter;
  explicit Inputs(const Shape& shape, DType dtype = DType::f32)
      : base(random_tensor(shape, dtype, 1)), adapter(random_tensor(shape.with_cols(shape.cols() + 1), dtype, 2)) {}
};

}  // namespace

TEST_CASE("mask_mix/forward/hand_values") {
  const Var base(Tensor::from_values(std::vector<double>{1, 2, 3}, {1, 1, 1, 1, 3}));
  const Var adapter(Tensor::from_values(std::vector<double>{5, 6, 7, 0.5}, {1, 1, 1, 1, 4}));
  const MaskMix mixed = mask_mix(base, adapter, scalar(2, DType::f64), scalar(-0.5, DType::f64));
  const double m = 1 / (1 + std::exp(-0.5));  // 2 * 0.5 - 0.5
  CHECK(mixed.mask.shape() == Shape{1, 1, 1, 1, 1});
  CHECK(mixed.mask.to_doubles()[0] == doctest::Approx(m));
  for (std::size_t c = 0; c < 3; ++c)
    CHECK(mixed.out.value().to_doubles()[c] == doctest::Approx(m * (1.0 + c) + (1 - m) * (5.0 + c)));
}

TEST_CASE("mask_mix/property_29/fresh_mixture_is_half_and_half") {
  const Inputs in({1, 2, 3, 3, 3});
  const MaskMix mixed = mask_mix(in.base, in.adapter, scalar(0), scalar(0));
  for (double m : mixed.mask.to_doubles()) CHECK(m == 0.5);
  const auto b = in.base.value().to_values<float>(), a = in.adapter.value().to_values<float>(),
             o = mixed.out.value().to_values<float>();
  for (std::size_t i = 0; i < b.size(); ++i) CHECK(o[i] == 0.5f * b[i] + 0.5f * a[i / 3 * 4 + i % 3]);
}

TEST_CASE("mask_mix/property_31/saturated_mask_selects_one_model") {
  const Inputs in({1, 2, 3, 3, 3});
  const auto b = in.base.value().to_doubles(), a = in.adapter.value().to_doubles();
  const auto up = mask_mix(in.base, in.adapter, scalar(1), scalar(30)).out.value().to_doubles();
  const auto down = mask_mix(in.base, in.adapter, scalar(1), scalar(-30)).out.value().to_doubles();
  for (std::size_t i = 0; i < b.size(); ++i) {
    CHECK(std::abs(up[i] - b[i]) < 1e-6);
    CHECK(std::abs(down[i] - a[i / 3 * 4 + i % 3]) < 1e-6);
  }
}

TEST_CASE("mask_mix/gradient") {
  for (const std::int64_t C : {1, 3}) {
    const Shape shape{2, 2, 3, 2, C};
    CHECK(
        gradient_errors(
            [](const auto& in) { return mask_mix(in[0], in[1], in[2], in[3]).out; },
            {random_tensor(shape, DType::f64, 1), random_tensor(shape.with_cols(C + 1), DType::f64, 2),
             Tensor::full({1}, 0.7, DType::f64), Tensor::full({1}, -0.2, DType::f64)}) == "");
  }
}

TEST_CASE("mask_mix/property_30/first_backward_pass") {
  const Inputs in({1, 1, 2, 2, 3});
  const Var adapter(in.adapter.value(), true), w(Tensor::zeros({1}), true), b(Tensor::zeros({1}), true);
  mask_mix(in.base, adapter, w, b).out.backward(random_tensor({1, 1, 2, 2, 3}, DType::f32, 5));
  const auto d = adapter.grad().to_doubles();
  for (std::size_t i = 0; i < d.size(); ++i)
    CHECK((d[i] == 0) == (i % 4 == 3));  // nothing reaches the mask channel while w = 0
  CHECK(w.grad().item() != 0);
  CHECK(b.grad().item() != 0);
  CHECK(!in.base.grad().defined());
}

TEST_CASE("mask_mix/f32/equals_f64_same_bits_for_any_threads") {
  for (const Shape& shape : {Shape{1, 2, 50, 100, 3}, Shape{1, 1, 1, 1, 3}, Shape{1, 0, 4, 4, 3}}) {
    const Inputs in(shape);
    const Tensor d_out = random_tensor(shape, DType::f32, 6);
    const auto run = [&](DType dtype) {
      std::vector<Var> v{
          Var(in.base.value().to(dtype), true), Var(in.adapter.value().to(dtype), true),
          Var(Tensor::full({1}, 0.75, dtype), true), Var(Tensor::full({1}, -0.25, dtype), true)};
      const MaskMix mixed = mask_mix(v[0], v[1], v[2], v[3]);
      const Tensor out = mixed.out.value();
      mixed.out.backward(d_out.to(dtype));
      return std::vector<Tensor>{out, mixed.mask, v[0].grad(), v[1].grad(), v[2].grad(), v[3].grad()};
    };
    const int before = omp_get_max_threads();
    omp_set_num_threads(1);
    const auto one = run(DType::f32);
    omp_set_num_threads(2);
    const auto two = run(DType::f32), full = run(DType::f64);
    omp_set_num_threads(before);
    for (std::size_t i = 0; i < one.size(); ++i) {
      CHECK(rel_l2(one[i], full[i]) < 2e-6);
      CHECK(same_bits(one[i], two[i]));
      CHECK(gaps_are_zero(one[i]));
    }
  }
}

TEST_CASE("mask_mix/errors") {
  const Var base(Tensor::zeros({1, 1, 2, 2, 3})), adapter(Tensor::zeros({1, 1, 2, 2, 4}));
  CHECK_THROWS_WITH_AS(
      mask_mix(base, base, scalar(0), scalar(0)), "mask_mix: adapter: expected [1,1,2,2,4], got f32 [1,1,2,2,3]",
      ShapeError);
  CHECK_THROWS_AS(mask_mix(base, adapter, Var(Tensor::zeros({2})), scalar(0)), ShapeError);
  CHECK_THROWS_AS(mask_mix(base, adapter, scalar(0), Var(Tensor::scalar(0))), ShapeError);
  CHECK_THROWS_AS(mask_mix(base, adapter, scalar(0, DType::f64), scalar(0)), DTypeError);
}
