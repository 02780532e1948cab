// tests/autograd/var_test.cpp -- the graph itself, with a rule small enough to check by hand
#include "autograd/var.h"

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;

namespace {

// y = a * b elementwise: d_a = d_y * b, d_b = d_y * a.
struct ProductRule : Rule {
  Saved a, b;
  const char* op() const override { return "product"; }
  static Tensor times(const Tensor& x, const Tensor& y) {
    auto xs = x.to_doubles(), ys = y.to_doubles();
    for (std::size_t i = 0; i < xs.size(); ++i) xs[i] *= ys[i];
    return Tensor::from_values(xs, x.shape());
  }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    if (d_in.needs(0)) d_in.set(0, times(d_out, b.get()));
    if (d_in.needs(1)) d_in.set(1, times(d_out, a.get()));
  }
};

Var product(const Var& a, const Var& b) {
  Tensor out = ProductRule::times(a.value(), b.value());
  if (!needs_record({&a, &b})) return Var(out);
  auto rule = std::make_unique<ProductRule>();
  rule->a = Saved("product", "a", a.value());
  rule->b = Saved("product", "b", b.value());
  return record(std::move(rule), out, {a, b});
}

Var leaf(std::vector<double> values, bool trainable = true) {
  const Shape shape{static_cast<std::int64_t>(values.size())};
  return Var(Tensor::from_values(values, shape), trainable, "leaf");
}

}  // namespace

TEST_CASE("var/backward/a value used three times collects every contribution") {
  const Var x = leaf({3.0});
  const Var square = product(x, x);
  const Var cube = product(square, x);  // d(x^3) = 3 x^2
  cube.backward();
  CHECK(x.grad().item() == doctest::Approx(27.0));
  const Var again = product(x, x);  // gradients of leaves accumulate over backward calls
  again.backward();
  CHECK(x.grad().item() == doctest::Approx(33.0));
}

TEST_CASE("var/backward/a gradient that shares storage with d_out is not corrupted by a later sum") {
  struct PassRule : Rule {
    const char* op() const override { return "pass"; }
    void backward(const Tensor& d_out, InputGrads& d_in) override {
      d_in.set(0, d_out);
      d_in.set(1, d_out);
    }
  };
  const Var a = leaf({1, 2}), b = leaf({5, 7});
  const Var sum = record(std::make_unique<PassRule>(), a.value().clone(), {a, b});
  const Var twice = record(std::make_unique<PassRule>(), a.value().clone(), {sum, a});
  const Tensor upstream = Tensor::from_values(std::vector<double>{1, 10}, {2});
  twice.backward(upstream);
  CHECK(a.grad().to_doubles() == std::vector<double>{2, 20});
  CHECK(b.grad().to_doubles() == std::vector<double>{1, 10});
  CHECK(upstream.to_doubles() == std::vector<double>{1, 10});
}

TEST_CASE("var/record/frozen and no-grad paths keep nothing") {
  const Var frozen = leaf({2.0}, false), x = leaf({4.0});
  CHECK_FALSE(product(frozen, frozen).requires_grad());
  const long users = x.value().use_count();
  {
    const NoGrad no_grad;
    const Var y = product(x, x);
    CHECK_FALSE(y.requires_grad());
    CHECK(x.value().use_count() == users);
  }
  const std::size_t held = saved_stats().bytes;
  const Var y = product(x, frozen);
  CHECK(x.value().use_count() == users + 1);
  CHECK(saved_stats().bytes == held + x.value().num_bytes() + frozen.value().num_bytes());
  y.backward();
  CHECK(saved_stats().bytes == held);
  CHECK(x.value().use_count() == users);  // freed with the graph, although y is alive
  CHECK_FALSE(frozen.grad().defined());
  CHECK(x.grad().item() == 2.0);
}

TEST_CASE("var/record/an intermediate value that no rule saved is freed") {
  struct NothingSaved : Rule {
    const char* op() const override { return "nothing_saved"; }
    void backward(const Tensor& d_out, InputGrads& d_in) override { d_in.set(0, d_out); }
  };
  const Var x = leaf({1, 2, 3});
  Var middle = record(std::make_unique<NothingSaved>(), x.value().clone(), {x});
  const Tensor watch = middle.value();
  const Var end = record(std::make_unique<NothingSaved>(), x.value().clone(), {middle});
  middle = Var();
  CHECK(watch.use_count() == 1);
  end.backward(x.value().clone());
  CHECK(x.grad().to_doubles() == std::vector<double>{1, 2, 3});
}

TEST_CASE("var/errors/second use of a freed graph names the op") {
  const Var x = leaf({3.0});
  const Var y = product(x, x);
  const Var z = product(y, x);
  z.backward();
  CHECK_THROWS_WITH_AS(
      z.backward(), doctest::Contains("product: backward through a graph that was already freed"), GraphError);
  const Var w = product(y, x);
  CHECK_THROWS_WITH_AS(w.backward(), doctest::Contains("already freed"), GraphError);
}

TEST_CASE("var/errors/an in-place change of a saved tensor names the op and the tensor") {
  Var x = leaf({3.0});
  const Var y = product(x, x);
  x.mutable_value().fill(4.0);
  CHECK_THROWS_WITH_AS(y.backward(), doctest::Contains("product: "), GraphError);
}

TEST_CASE("var/errors/shapes and scalars") {
  const Var x = leaf({1.0, 2.0});
  CHECK_THROWS_AS(product(x, x).backward(), ShapeError);
  CHECK_THROWS_AS(product(x, x).backward(Tensor::zeros({3}, DType::f64)), ShapeError);
  CHECK_THROWS_AS(leaf({1.0}, false).backward(), GraphError);
}

TEST_CASE("var/recompute/same gradients, also for leaves inside the region") {
  const Var x = leaf({3.0}), w = leaf({5.0});
  const auto body = [&](const std::vector<Var>& in) { return product(product(in[0], w), in[0]); };  // w x^2
  const Var direct = body({x});
  direct.backward();
  const double d_x = x.grad().item(), d_w = w.grad().item();
  Var(x).zero_grad();
  Var(w).zero_grad();
  int calls = 0;
  const Var y = recompute(
      "region",
      [&](const std::vector<Var>& in) {
        ++calls;
        return body(in);
      },
      {x});
  CHECK(y.value().item() == 45.0);
  const Var z = product(y, y);
  z.backward();
  CHECK(calls == 2);
  CHECK(x.grad().item() == doctest::Approx(2 * 45 * d_x));
  CHECK(w.grad().item() == doctest::Approx(2 * 45 * d_w));
  CHECK(grad_enabled());
}
