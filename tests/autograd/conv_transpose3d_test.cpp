// tests/autograd/conv_transpose3d_test.cpp -- gradients of conv_transpose3d in f64
#include "autograd/ops/conv_transpose3d.h"

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using test::gradient_errors, test::random_tensor;

namespace {

std::string errors_of(const Shape& x, const Shape& w, bool bias, const Conv3dOptions& options) {
  return gradient_errors(
      [&](const std::vector<Var>& in) { return conv_transpose3d(in[0], in[1], in[2], options); },
      {random_tensor(x, DType::f64, 1), random_tensor(w, DType::f64, 2),
       bias ? random_tensor({w.cols()}, DType::f64, 3) : Tensor()});
}

}  // namespace

TEST_CASE("conv_transpose3d/gradient/4x4 stride 2") {
  const Conv3dOptions up{.stride = {1, 2, 2}, .padding = {0, 1, 1}};
  CHECK(errors_of({2, 2, 3, 4, 3}, {3, 1, 4, 4, 5}, true, up) == "");
  CHECK(errors_of({1, 1, 1, 1, 2}, {2, 1, 4, 4, 1}, false, up) == "");
}

TEST_CASE("conv_transpose3d/gradient/time taps and uneven strides") {
  CHECK(errors_of({1, 3, 2, 3, 2}, {2, 2, 3, 3, 3}, true, {.stride = {2, 1, 3}, .padding = {0, 1, 0}}) == "");
}
