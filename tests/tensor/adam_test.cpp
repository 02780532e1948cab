// tests/tensor/adam_test.cpp -- the optimiser's passes against hand values and a plain double loop
#include "tensor/ops/adam.h"

#include <omp.h>

#include <cmath>
#include <limits>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;

TEST_CASE("adam/step/hand_values") {
  // First step: m = 0.1 g, v = 0.001 g^2, both corrected to g and g^2, so every element moves by lr g / (|g| + eps).
  Tensor p = Tensor::from_values(std::vector<double>{1, 1, 1}, {3}), m = Tensor::zeros({3}, DType::f64), v = m.clone();
  const Tensor g = Tensor::from_values(std::vector<double>{2, -0.5, 0}, {3});
  adam_step(p, g, m, v, {.lr = 0.1});
  CHECK(p.to_doubles()[0] == doctest::Approx(0.9));
  CHECK(p.to_doubles()[1] == doctest::Approx(1.1));
  CHECK(p.to_doubles()[2] == 1);
  CHECK(m.to_doubles()[0] == doctest::Approx(0.2));
  CHECK(v.to_doubles()[1] == doctest::Approx(0.00025));
  // Second step without a gradient: m = 0.18, v = 0.003996 for the first element.
  adam_step(p, {}, m, v, {.lr = 0.1, .num_steps = 2});
  const double m_hat = 0.18 / (1 - 0.81), v_hat = 0.003996 / (1 - 0.999 * 0.999);
  CHECK(p.to_doubles()[0] == doctest::Approx(0.9 - 0.1 * m_hat / (std::sqrt(v_hat) + 1e-8)));
}

TEST_CASE("adam/step/eps_lies_outside_the_root") {
  Tensor p = Tensor::zeros({1}, DType::f64), m = p.clone(), v = p.clone();
  adam_step(p, Tensor::full({1}, 1e-8, DType::f64), m, v, {.lr = 1});
  CHECK(p.item() == doctest::Approx(-0.5));  // 1e-8 / (1e-8 + 1e-8)
}

TEST_CASE("adam/step/weight_decay_and_grad_scale") {
  Tensor p = Tensor::full({1}, 2, DType::f64), m = Tensor::zeros({1}, DType::f64), v = m.clone();
  adam_step(p, Tensor::full({1}, 4, DType::f64), m, v, {.lr = 0.1, .weight_decay = 0.5, .grad_scale = 0.25});
  CHECK(p.item() == doctest::Approx(2 * 0.95 - 0.1));
  CHECK(m.item() == doctest::Approx(0.1));
}

TEST_CASE("adam/step/f32_follows_f64_with_zero_gaps_for_any_threads") {
  const Shape shape{9000, 7};  // several chunks, pitched
  const Tensor start = random_tensor(shape, DType::f32, 1);
  const auto run = [&](DType dtype) {
    Tensor p = start.to(dtype), m = Tensor::zeros(shape, dtype), v = m.clone();
    for (std::int64_t n = 1; n <= 5; ++n)
      adam_step(
          p, random_tensor(shape, DType::f32, 10 + static_cast<std::uint64_t>(n)).to(dtype), m, v,
          {.lr = 1e-2, .num_steps = n});
    CHECK(gaps_are_zero(p));
    CHECK(gaps_are_zero(m));
    CHECK(gaps_are_zero(v));
    return p;
  };
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Tensor one = run(DType::f32);
  omp_set_num_threads(2);
  const Tensor two = run(DType::f32);
  omp_set_num_threads(before);
  CHECK(same_bits(one, two));
  CHECK(rel_l2(one, run(DType::f64)) < 1e-6);
}

TEST_CASE("adam/property_33/learning_rate_zero_changes_no_parameter") {
  const Tensor start = random_tensor({5, 5}, DType::f32, 1);
  Tensor p = start.clone(), m = Tensor::zeros({5, 5}), v = m.clone();
  adam_step(p, random_tensor({5, 5}, DType::f32, 2), m, v, {.lr = 0});
  CHECK(same_bits(p, start));
  adam_step(p, random_tensor({5, 5}, DType::f32, 3), m, v, {.lr = 1e-7, .num_steps = 2});
  CHECK(!same_bits(p, start));
}

TEST_CASE("adam/ema_lerp/moves_by_the_share") {
  Tensor shadow = Tensor::full({20000, 3}, 1), copy = shadow.clone();
  const Tensor online = Tensor::full({20000, 3}, 5);
  ema_lerp(shadow, online, 0.75);
  CHECK(same_bits(shadow, Tensor::full({20000, 3}, 2)));
  CHECK(gaps_are_zero(shadow));
  ema_lerp(shadow, online, 0);
  CHECK(same_bits(shadow, online));
  ema_lerp(copy, online, 1);
  CHECK(same_bits(copy, Tensor::full({20000, 3}, 1)));
}

TEST_CASE("adam/grad_norm/value_threads_and_non_finite") {
  std::vector<Tensor> grads{Tensor::full({2}, 3), {}, Tensor::full({1, 3}, 1), Tensor::full({1}, 2)};
  CHECK(grad_norm(grads).norm == 5);
  CHECK(grad_norm(grads).first_non_finite == -1);
  CHECK(grad_norm({}).norm == 0);
  const std::vector<Tensor> large{random_tensor({100000}, DType::f32, 1)};
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const double one = grad_norm(large).norm;
  omp_set_num_threads(2);
  CHECK(grad_norm(large).norm == one);
  omp_set_num_threads(before);
  CHECK(grad_norm(std::vector<Tensor>{Tensor::full({10}, 3e38)}).first_non_finite == -1);  // squares stay finite in f64
  grads[2].data<float>()[1] = std::nanf("");
  grads[3].fill(std::numeric_limits<double>::infinity());
  CHECK(grad_norm(grads).first_non_finite == 2);
  CHECK(!std::isfinite(grad_norm(grads).norm));
}

TEST_CASE("adam/property_41/clip_factor") {
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(4, 1) == 1 / (4 + 1e-6));
  CHECK(clip_factor(80.14441009, 1) == doctest::Approx(0.012477).epsilon(1e-4));
}

TEST_CASE("adam/errors") {
  Tensor p = Tensor::zeros({2, 3}), m = p.clone(), v = p.clone(), wrong = Tensor::zeros({3, 2}),
         full = Tensor::zeros({2, 3}, DType::f64);
  CHECK_THROWS_WITH_AS(adam_step(p, wrong, m, v, {}), "adam_step: grad: expected [2,3], got f32 [3,2]", ShapeError);
  CHECK_THROWS_AS(adam_step(p, p, full, v, {}), DTypeError);
  CHECK_THROWS_AS(adam_step(p, p, m, v, {.num_steps = 0}), ConfigError);
  CHECK_THROWS_AS(ema_lerp(p, full, 0.5), DTypeError);
  CHECK_THROWS_AS(grad_norm(std::vector<Tensor>{Tensor::zeros({2}, DType::i64)}), DTypeError);
}
