// tests/train/optimizer_test.cpp -- Adam by hand, its norm, and its moments on disk and back
#include "train/optimizer.h"

#include <cmath>
#include <limits>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::train;

namespace {

struct TwoParameters : nn::Module {
  explicit TwoParameters(DType dtype = DType::f64) {
    a = add_parameter({.name = "a", .shape = {2, 3}, .plain_shape = {2, 3}, .init = nn::Init::ones});
    b = add_parameter({.name = "b", .shape = {5}, .plain_shape = {5}, .init = nn::Init::ones});
    initialize(1, dtype);
  }
  nn::Parameter *a, *b;
};

void set_grad(nn::Parameter* p, const std::vector<double>& values) {
  Var leaf = p->var();
  leaf.zero_grad();
  const Tensor g = Tensor::from_values(values, p->shape()).to(leaf.dtype());
  leaf.backward(g);  // a leaf's own gradient arrives as it is
}

}  // namespace

TEST_CASE("optimizer/adam/three_steps_by_hand") {
  TwoParameters module;
  Adam adam(module.parameters(), {});
  const std::vector<double> grads = {0.5, -2.0, 0.1};
  double p = 1, m = 0, v = 0;
  for (int n = 1; n <= 3; ++n) {
    const double g = grads[static_cast<std::size_t>(n - 1)];
    set_grad(module.a, std::vector<double>(6, g));
    const double norm = std::sqrt(6.0) * std::abs(g), scale = (norm / 2) / (norm + 1e-6);
    const AdamOutcome outcome = adam.update(0.01, norm / 2);  // b never gets a gradient
    CHECK(outcome.norm == doctest::Approx(norm).epsilon(1e-13));
    CHECK(outcome.clip_scale == doctest::Approx(scale).epsilon(1e-13));
    CHECK(outcome.num_steps == n);
    m = 0.9 * m + 0.1 * g * scale;
    v = 0.999 * v + 0.001 * g * scale * g * scale;
    p -= 0.01 * (m / (1 - std::pow(0.9, n))) / (std::sqrt(v / (1 - std::pow(0.999, n))) + 1e-8);
    CHECK(module.a->var().value().to_doubles()[4] == doctest::Approx(p).epsilon(1e-13));
  }
  CHECK(module.b->var().value().to_doubles() == std::vector<double>(5, 1.0));
  CHECK(test::gaps_are_zero(module.a->var().value()));
}

TEST_CASE("optimizer/norm/over_all_parameters") {
  TwoParameters module;
  const Adam adam(module.parameters(), {});
  CHECK(adam.grad_norm() == 0);
  set_grad(module.a, {1, 2, 3, 4, 5, 6});
  set_grad(module.b, {0, 0, 0, 3, 0});
  CHECK(adam.grad_norm() == doctest::Approx(10).epsilon(1e-15));
}

TEST_CASE("optimizer/guard/a_gradient_that_is_not_finite_changes_nothing") {
  TwoParameters module;
  Adam adam(module.parameters(), {});
  set_grad(module.a, std::vector<double>(6, 1.0));
  adam.update(0.1, 1e9);
  const Tensor before = module.a->var().value().clone();
  set_grad(module.a, std::vector<double>(6, 1.0));
  set_grad(module.b, {0, 0, std::numeric_limits<double>::infinity(), 0, 0});
  const AdamOutcome outcome = adam.update(0.1, 1e9);
  CHECK(module.parameters()[static_cast<std::size_t>(outcome.first_non_finite)].name == "b");
  CHECK(test::same_bits(module.a->var().value(), before));
  CHECK(adam.num_steps() == 1);
}

TEST_CASE("optimizer/moments/round_trip_and_misfits") {
  TwoParameters one, two;
  Adam first(one.parameters(), {}), second(two.parameters(), {});
  set_grad(one.a, {1, -2, 3, -4, 5, -6});
  first.update(0.1, 1e9);
  second.import_moments(first.export_moments(), first.num_steps(), "x");
  Var leaf = two.a->var();
  leaf.mutable_value().copy_from(one.a->var().value());
  for (TwoParameters* module : {&one, &two}) set_grad(module->a, {6, 5, 4, 3, 2, 1});
  first.update(0.1, 1e9);
  second.update(0.1, 1e9);
  CHECK(test::same_bits(one.a->var().value(), two.a->var().value()));

  NamedTensors moments = first.export_moments();
  moments.pop_back();
  CHECK_THROWS_AS(second.import_moments(moments, 1, "x"), ShapeError);
  moments.emplace_back("v.c", Tensor::zeros({5}, DType::f64));
  CHECK_THROWS_AS(second.import_moments(moments, 1, "x"), ShapeError);
  moments.back() = {"v.b", Tensor::zeros({4}, DType::f64)};
  CHECK_THROWS_AS(second.import_moments(moments, 1, "x"), ShapeError);
  CHECK(second.num_steps() == 2);
}
