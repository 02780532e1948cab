// tests/autograd/device_test.cpp -- sums of gradients, casts and bf16 copies of weights on a device
#include "autograd/ops/cast.h"
#include "autograd/ops/conv3d.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

const Device kDevice = test::device_under_test();

}  // namespace

TEST_CASE("device/accumulate/several uses of a value add up") {
  for (const Shape& shape : {Shape{1}, Shape{3}, Shape{7}, Shape{2, 3}, Shape{5, 50}, Shape{3, 101}}) {
    CAPTURE(shape.to_string());
    const Tensor host = test::random_tensor(shape, DType::f32, 4), d_out = test::random_tensor(shape, DType::f32, 5);
    const Var x(host.to(kDevice), true, "x");
    add(add(x, scale(x, 2)), x).backward(d_out.to(kDevice));
    CHECK(x.grad().device() == kDevice);
    // 1 + 2 + 1 times a number is exact.
    std::vector<double> expected = d_out.to_doubles();
    for (double& v : expected) v *= 4;
    CHECK(x.grad().to_doubles() == expected);
    CHECK(test::gaps_are_zero(x.grad().to(Device())));
    add(x, x).backward(d_out.to(kDevice));  // onto what is there
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] *= 1.5;
    CHECK(test::max_abs_diff(x.grad(), Tensor::from_values(expected, shape)) < 1e-6);
  }
}

TEST_CASE("device/accumulate/bf16 is rounded as on the CPU") {
  const Tensor host = test::random_tensor({3, 21}, DType::bf16, 4),
               d_out = test::random_tensor({3, 21}, DType::bf16, 5);
  Tensor grads[2];
  for (const Device device : {Device(), kDevice}) {
    const Var x(host.to(device), true, "x");
    add(scale(x, 0.37), x).backward(d_out.to(device));
    grads[device.is_gpu()] = x.grad().to(Device());
  }
  CHECK(test::same_bits(grads[1], grads[0]));
}

TEST_CASE("device/accumulate/convolutions and products add to what other uses contributed") {
  // y = conv(x) + linear(x) + x, in an order in which each of the three comes first once, with x alone and as the
  // second of two sources; f64 on the CPU is the oracle.
  const Shape shape{2, 2, 3, 5, 6};
  const Tensor host = test::random_tensor(shape, DType::f64, 1), d_out = test::random_tensor(shape, DType::f64, 2);
  const Tensor first = test::random_tensor({2, 2, 3, 5, 3}, DType::f64, 5);
  for (int order = 0; order < 6; ++order) {
    CAPTURE(order);
    const bool second = order >= 3;
    const std::int64_t I = second ? 9 : 6;
    const Tensor w3 = test::random_tensor({6, 1, 3, 3, I}, DType::f64, 3),
                 w1 = test::random_tensor({6, I}, DType::f64, 4);
    const auto gradient = [&](Device device, DType dtype) {
      const auto there = [&](const Tensor& t) { return t.to(dtype).to(device); };
      const Var x(there(host), true, "x"), k(there(w3)), m(there(w1));
      const Var a = second ? Var(there(first)) : x, b = second ? x : Var();
      Var parts[3];  // the walk visits the newest first
      for (int i = 0; i < 3; ++i) {
        const int part = (i + order) % 3;
        parts[i] = part == 0   ? conv3d(a, k, {}, {.padding = {0, 1, 1}}, b)
                   : part == 1 ? linear(a, m, {}, b)
                               : scale(x, 0.5);
      }
      add(add(parts[0], parts[1]), parts[2]).backward(there(d_out));
      return x.grad().to(Device());
    };
    const Tensor want = gradient(Device(), DType::f64);
    CHECK(test::rel_l2(gradient(kDevice, DType::f32), want) < 1e-6);
    CHECK(test::rel_l2(gradient(kDevice, DType::bf16), want) < 1e-2);
    CHECK(test::rel_l2(gradient(Device(), DType::bf16), want) < 1e-2);
  }
}

TEST_CASE("device/cast/gradient returns in the input's type") {
  for (const Device device : {Device(), kDevice}) {
    const Tensor host = test::random_tensor({4, 5}, DType::f32, 6);
    const Var x(host.to(device), true, "x");
    const Var narrow = cast(x, DType::bf16);
    CHECK(test::same_bits(narrow.value().to(Device()), host.to(DType::bf16)));
    narrow.backward(host.to(DType::bf16).to(device));
    CHECK(x.grad().dtype() == DType::f32);
    CHECK(test::same_bits(x.grad().to(Device()), host.to(DType::bf16).to(DType::f32)));
    CHECK(cast(x, DType::f32).value().shares_storage_with(x.value()));
  }
}

TEST_CASE("device/value_in/made again when the value has changed, and only then") {
  for (const Device device : {Device(), kDevice}) {
    const Var w(Tensor::full({2, 3}, 1.0, DType::f32, device), true, "w");
    const void* first = &w.value_in(DType::bf16);
    const std::uint64_t made = w.value_in(DType::bf16).version();
    CHECK(&w.value_in(DType::bf16) == first);
    CHECK(w.value_in(DType::bf16).version() == made);
    Var handle = w;
    handle.mutable_value().fill(2.0);
    CHECK(w.value_in(DType::bf16).to_doubles() == std::vector<double>(6, 2.0));
    // Another tensor in its place (the averaged weights) counts as a change even if it has as many of them.
    Tensor other = Tensor::full({2, 3}, 3.0, DType::f32, device);
    std::swap(handle.mutable_value(), other);
    CHECK(w.value_in(DType::bf16).to_doubles() == std::vector<double>(6, 3.0));
    CHECK(w.value_in(DType::f32).shares_storage_with(w.value()));
    // A copy that somebody saved for a backward pass stays what it was.
    const Tensor saved = w.value_in(DType::bf16);
    handle.mutable_value().fill(4.0);
    CHECK(w.value_in(DType::bf16).to_doubles() == std::vector<double>(6, 4.0));
    CHECK(saved.to_doubles() == std::vector<double>(6, 3.0));
  }
}

TEST_CASE("device/copy/is current until the value changes, and again when its writer says so") {
  const Var w(test::random_tensor({3, 10}, DType::f32, 4).to(kDevice), true, "w");
  Var handle = w;
  CHECK_THROWS_WITH_AS(handle.set_copy_current(), doctest::Contains("w has no copy"), GraphError);
  w.refresh_copy();
  CHECK_FALSE(w.current_copy().defined());  // nobody has asked for one
  w.value_in(DType::bf16);
  CHECK(w.current_copy().shares_storage_with(w.value_in(DType::bf16)));
  {
    const Tensor saved = w.value_in(DType::bf16);
    CHECK_FALSE(w.current_copy().defined());
  }
  handle.mutable_value().fill(2.0);
  CHECK_FALSE(w.current_copy().defined());
  const void* where = w.value_in(DType::bf16).device_pointer(DType::bf16);
  CHECK(w.current_copy().defined());
  // As the optimiser does it.
  Tensor copy = w.current_copy();
  handle.mutable_value().fill(3.0);
  copy.fill(3.0);
  handle.set_copy_current();
  copy = {};
  const std::uint64_t version = w.current_copy().version();
  CHECK(w.value_in(DType::bf16).to_doubles() == std::vector<double>(30, 3.0));
  CHECK(w.current_copy().version() == version);  // nothing was converted
  handle.mutable_value().fill(4.0);
  w.refresh_copy();
  CHECK(w.current_copy().to_doubles() == std::vector<double>(30, 4.0));
  CHECK(w.current_copy().device_pointer(DType::bf16) == where);
}

}  // namespace avid
