// tests/autograd/conv3d_test.cpp -- gradients of conv3d in f64, and what it saves
#include "autograd/ops/conv3d.h"

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using test::gradient_errors, test::random_tensor;

namespace {

std::string errors_of(const Shape& x, const Shape& w, bool bias, const Conv3dOptions& options, const Shape& x2 = {}) {
  return gradient_errors(
      [&](const std::vector<Var>& in) { return conv3d(in[0], in[1], in[2], options, in[3]); },
      {random_tensor(x, DType::f64, 1), random_tensor(w, DType::f64, 2),
       bias ? random_tensor({w[0]}, DType::f64, 3) : Tensor(),
       x2.rank() ? random_tensor(x2, DType::f64, 4) : Tensor()});
}

}  // namespace

TEST_CASE("conv3d/gradient/3x3 per frame") {
  CHECK(errors_of({2, 2, 4, 5, 3}, {4, 1, 3, 3, 3}, true, {.padding = {0, 1, 1}}) == "");
  CHECK(errors_of({1, 1, 1, 1, 1}, {1, 1, 3, 3, 1}, true, {.padding = {0, 1, 1}}) == "");
}

TEST_CASE("conv3d/gradient/7x7 and 1x1 and no bias") {
  CHECK(errors_of({1, 2, 5, 5, 2}, {3, 1, 7, 7, 2}, true, {.padding = {0, 3, 3}}) == "");
  CHECK(errors_of({2, 1, 3, 2, 7}, {5, 1, 1, 1, 7}, false, {}) == "");
}

TEST_CASE("conv3d/gradient/4x4 stride 2") {
  CHECK(errors_of({1, 2, 6, 8, 3}, {3, 1, 4, 4, 3}, true, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}) == "");
  CHECK(errors_of({1, 1, 7, 5, 2}, {3, 1, 4, 4, 2}, true, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}) == "");
}

TEST_CASE("conv3d/gradient/time taps and strides") {
  CHECK(errors_of({2, 5, 4, 3, 2}, {3, 3, 2, 3, 2}, true, {.stride = {2, 1, 3}, .padding = {1, 0, 2}}) == "");
}

TEST_CASE("conv3d/gradient/two inputs") {
  CHECK(errors_of({2, 1, 4, 4, 3}, {4, 1, 3, 3, 8}, true, {.padding = {0, 1, 1}}, {2, 1, 4, 4, 5}) == "");
}

TEST_CASE("conv3d/saves/only what the needed gradients use") {
  const Var x(Tensor::zeros({1, 1, 4, 4, 4}), true), w_frozen(Tensor::zeros({4, 1, 3, 3, 4}));
  const std::size_t before = saved_stats().bytes;
  {
    const Var out = conv3d(x, w_frozen, {}, {.padding = {0, 1, 1}});
    CHECK(saved_stats().bytes - before == 4 * 9 * 4 * 4);  // the weight, not x
  }
  const Var x_data(Tensor::zeros({1, 1, 4, 4, 4})), w(Tensor::zeros({4, 1, 3, 3, 4}), true);
  {
    const Var out = conv3d(x_data, w, {}, {.padding = {0, 1, 1}});
    CHECK(saved_stats().bytes - before == 16 * 4 * 4);  // x, not the weight
  }
  const Var out = conv3d(x_data, w_frozen, {}, {.padding = {0, 1, 1}});
  CHECK(saved_stats().bytes == before);
}
