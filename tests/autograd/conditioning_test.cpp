// tests/autograd/conditioning_test.cpp -- embedding, film_condition and unet_input: values, gradients, errors
#include "autograd/ops/embedding.h"
#include "autograd/ops/film_condition.h"
#include "autograd/ops/unet_input.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

namespace {

Tensor ids(std::vector<std::int64_t> v, const Shape& shape) { return Tensor::from_values(v, shape); }

}  // namespace

TEST_CASE("embedding/forward/rows_and_null_row") {
  const Tensor table = Tensor::from_values(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor null_row = Tensor::from_values(std::vector<float>{7, 8, 9}, {3});
  const Tensor out = embedding(Var(table), Var(null_row), ids({1, -1, 0, 1}, {2, 2})).value();
  CHECK(out.shape() == Shape{2, 2, 3});
  CHECK(out.to_doubles() == std::vector<double>{4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6});
  CHECK(gaps_are_zero(out));
}

TEST_CASE("embedding/gradient/repeated_and_null_ids") {
  const Tensor table = random_tensor({4, 3}, DType::f64, 1), null_row = random_tensor({3}, DType::f64, 2);
  const Tensor chosen = ids({1, -1, 1, 3, -1, 0}, {2, 3});
  CHECK(gradient_errors([&](const auto& in) { return embedding(in[0], in[1], chosen); }, {table, null_row}) == "");
  CHECK(gradient_errors([&](const auto& in) { return embedding(in[0], {}, ids({1, 1, 3}, {3})); }, {table}) == "");
}

TEST_CASE("embedding/property_30/only_used_rows_have_gradient") {
  Var table(random_tensor({5, 4}, DType::f32, 1), true), null_row(random_tensor({4}, DType::f32, 2), true);
  embedding(table, null_row, ids({3, 0, 3}, {1, 3})).backward(Tensor::full({1, 3, 4}, 1));
  CHECK(!null_row.grad().defined());
  const auto d = table.grad().to_doubles();
  for (std::size_t i = 0; i < d.size(); ++i) CHECK(d[i] == (i / 4 == 0 ? 1 : i / 4 == 3 ? 2 : 0));
  table.zero_grad();
  embedding(table, null_row, ids({-1, -1}, {1, 2})).backward(Tensor::full({1, 2, 4}, 1));
  CHECK(!table.grad().defined());
  CHECK(null_row.grad().to_doubles() == std::vector<double>(4, 2.0));
}

TEST_CASE("embedding/errors") {
  const Var table(Tensor::zeros({5, 4}));
  CHECK_THROWS_WITH_AS(
      embedding(table, {}, ids({5}, {1})), "embedding: ids: expected -1 to 4 (table has 5 rows), got 5", ShapeError);
  CHECK_THROWS_WITH_AS(
      embedding(table, {}, ids({-1}, {1})), "embedding: ids: expected no -1 (there is no null row), got -1",
      ShapeError);
  CHECK_THROWS_AS(embedding(table, {}, ids({-2}, {1})), ShapeError);
  CHECK_THROWS_AS(embedding(table, Var(Tensor::zeros({3})), ids({0}, {1})), ShapeError);
  CHECK_THROWS_AS(embedding(table, {}, Tensor::zeros({1})), DTypeError);
  CHECK_THROWS_AS(embedding(Var(Tensor::zeros({5})), {}, ids({0}, {1})), ShapeError);
}

TEST_CASE("film_condition/forward/time_repeated_then_action") {
  const Tensor time = Tensor::from_values(std::vector<float>{1, 2, 3, 4}, {2, 2});
  const Tensor action =
      Tensor::from_values(std::vector<float>{10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42}, {2, 2, 3});
  const Tensor out = film_condition(Var(time), Var(action), 2).value();
  CHECK(out.shape() == Shape{2, 2, 5});
  CHECK(
      out.to_doubles() == std::vector<double>{1, 2, 10, 11, 12, 1, 2, 20, 21, 22, 3, 4, 30, 31, 32, 3, 4, 40, 41, 42});
  CHECK(gaps_are_zero(out));
  CHECK(
      film_condition(Var(time), {}, 3).value().to_doubles() == std::vector<double>{1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4});
}

TEST_CASE("film_condition/gradient") {
  const Tensor time = random_tensor({2, 5}, DType::f64, 1), action = random_tensor({2, 3, 5}, DType::f64, 2);
  CHECK(gradient_errors([](const auto& in) { return film_condition(in[0], in[1], 3); }, {time, action}) == "");
  CHECK(gradient_errors([](const auto& in) { return film_condition(in[0], {}, 3); }, {time}) == "");
}

TEST_CASE("film_condition/errors") {
  const Var time(Tensor::zeros({2, 4}));
  CHECK_THROWS_WITH_AS(
      film_condition(time, Var(Tensor::zeros({2, 2, 4})), 3),
      "film_condition: action_code: expected [2,3,4], got f32 [2,2,4]", ShapeError);
  CHECK_THROWS_AS(film_condition(time, Var(Tensor::zeros({2, 3, 4}, DType::f64)), 3), DTypeError);
  CHECK_THROWS_AS(film_condition(Var(Tensor::zeros({4})), {}, 3), ShapeError);
}

TEST_CASE("unet_input/property_26/channel_order") {
  // cond value = 100 * frame + 10 * pixel + colour
  std::vector<float> cond_values;
  for (int frame = 0; frame < 2; ++frame)
    for (int pixel = 0; pixel < 2; ++pixel)
      for (int colour = 0; colour < 3; ++colour)
        cond_values.push_back(static_cast<float>(100 * frame + 10 * pixel + colour));
  const Tensor cond = Tensor::from_values(cond_values, {1, 2, 1, 2, 3});
  const Tensor x = random_tensor({1, 3, 1, 2, 3}, DType::f32, 1), base = random_tensor({1, 3, 1, 2, 3}, DType::f32, 2);
  const Tensor out = unet_input(cond, Var(x), Var(base)).value();
  CHECK(out.shape() == Shape{1, 3, 1, 2, 12});
  const auto o = out.to_doubles(), xv = x.to_doubles(), bv = base.to_doubles();
  for (std::size_t t = 0; t < 3; ++t) {
    for (std::size_t p = 0; p < 2; ++p) {
      const double* row = o.data() + (t * 2 + p) * 12;
      for (std::size_t colour = 0; colour < 3; ++colour)
        for (std::size_t k = 0; k < 2; ++k)
          CHECK(row[colour * 2 + k] == static_cast<double>(100 * k + 10 * p + colour));
      for (std::size_t c = 0; c < 3; ++c) {
        CHECK(row[6 + c] == xv[(t * 2 + p) * 3 + c]);
        CHECK(row[9 + c] == bv[(t * 2 + p) * 3 + c]);
      }
    }
  }
  const Tensor nine = unet_input(cond, Var(x), {}).value();
  CHECK(nine.shape() == Shape{1, 3, 1, 2, 9});
  CHECK(gaps_are_zero(nine));
}

TEST_CASE("unet_input/gradient") {
  const Tensor cond = random_tensor({2, 2, 2, 3, 3}, DType::f64, 1), x = random_tensor({2, 2, 2, 3, 3}, DType::f64, 2);
  const Tensor base = random_tensor({2, 2, 2, 3, 3}, DType::f64, 3);
  CHECK(gradient_errors([&](const auto& in) { return unet_input(cond, in[0], in[1]); }, {x, base}) == "");
  CHECK(gradient_errors([&](const auto& in) { return unet_input(cond, in[0], {}); }, {x}) == "");
}

TEST_CASE("unet_input/errors") {
  const Tensor cond = Tensor::zeros({1, 2, 4, 4, 3});
  const Var x(Tensor::zeros({1, 8, 4, 4, 3}));
  CHECK_THROWS_WITH_AS(
      unet_input(Tensor::zeros({2, 2, 4, 4, 3}), x, {}), "unet_input: cond: expected [1,2,4,4,3], got f32 [2,2,4,4,3]",
      ShapeError);
  CHECK_THROWS_AS(unet_input(cond, x, Var(Tensor::zeros({1, 8, 4, 4, 4}))), ShapeError);
  CHECK_THROWS_AS(unet_input(cond.to(DType::f64), x, {}), DTypeError);
  CHECK_THROWS_AS(unet_input(Tensor::zeros({4, 4, 3}), x, {}), ShapeError);
}
