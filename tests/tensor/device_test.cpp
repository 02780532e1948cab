// tests/tensor/device_test.cpp -- tensors on a device: memory, copies, conversions, and what is refused
//
// The device is the simulator, or a GPU: the same statements hold.
#include <cmath>
#include <limits>

#include "tensor/ops/moments.h"
#include "tensor/ops/on_device.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

const Device kDevice = test::device_under_test();
constexpr DType kAllTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8};

// Every byte of the buffer, gaps included, as the device holds it.
std::vector<std::byte> buffer_of(const Tensor& t) {
  std::vector<std::byte> bytes(t.num_bytes());
  on_device(t.device(), "test", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::device_copy<Backend>(
        stream, kernels::CopyKind::to_host, bytes.data(), bytes.size(), t.device_pointer(t.dtype()), bytes.size(),
        bytes.size(), 1);
  });
  return bytes;
}

// Whether the gaps behind all rows are zero.
bool gaps_are_zero(const Tensor& t) {
  const auto bytes = buffer_of(t);
  const std::size_t item = size_of(t.dtype()), row = static_cast<std::size_t>(t.pitch()) * item;
  for (std::int64_t r = 0; r < t.rows(); ++r)
    for (std::size_t i = static_cast<std::size_t>(t.cols()) * item; i < row; ++i)
      if (bytes[static_cast<std::size_t>(r) * row + i] != std::byte{0}) return false;
  return true;
}

}  // namespace

TEST_CASE("device/parse/names") {
  CHECK(Device::parse("cpu") == Device());
  CHECK(Device::parse("sim") == Device{DeviceKind::sim, 0});
  CHECK(kDevice.is_gpu());
  CHECK_FALSE(Device().is_gpu());
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "SIM"})
    CHECK_THROWS_AS(Device::parse(text), DeviceError);
}

TEST_CASE("device/copies/there and back keeps every bit") {
  for (const DType dtype : kAllTypes)
    for (const Shape& shape :
         {Shape{}, Shape{1}, Shape{3}, Shape{2, 3}, Shape{4, 1}, Shape{2, 3, 50}, Shape{3, 0}, Shape{0, 3}}) {
      CAPTURE(name_of(dtype));
      CAPTURE(shape.to_string());
      const Tensor host = test::random_tensor(shape, dtype, 7);
      const Tensor there = host.to(kDevice);
      CHECK(there.device() == kDevice);
      CHECK(there.shape() == shape);
      CHECK(there.pitch() == host.pitch());
      CHECK(gaps_are_zero(there));
      CHECK(test::same_bits(there.to(Device()), host));
      CHECK(test::same_bits(there.clone().to(Device()), host));
      CHECK(there.to_dense_bytes() == host.to_dense_bytes());
      CHECK(there.to_doubles() == host.to_doubles());
    }
}

TEST_CASE("device/copies/views with other pitches") {
  const Tensor host = test::random_tensor({4, 5}, DType::f32, 3);
  const Tensor there = host.to(kDevice);
  CHECK(there.slice(1, 3).to_doubles() == host.slice(1, 3).to_doubles());
  CHECK(there.select(2).to_doubles() == host.select(2).to_doubles());
  CHECK(there.select(2).slice(1, 4).to_doubles() == host.select(2).slice(1, 4).to_doubles());  // starts inside a pack
  CHECK(there.dense_reshape({5, 4}).to_doubles() == host.dense_reshape({5, 4}).to_doubles());
  CHECK(there.dense_reshape({5, 4}).device() == kDevice);
  Tensor part = Tensor::zeros({4, 5}, DType::f32, kDevice);
  Tensor rows = part.slice(1, 3);
  rows.copy_from(host.slice(0, 2));
  const auto values = part.to_doubles(), expected = host.to_doubles();
  for (std::size_t i = 0; i < 20; ++i) CHECK(values[i] == (i >= 5 && i < 15 ? expected[i - 5] : 0.0));
}

TEST_CASE("device/cast/as on the host") {
  for (const std::int64_t cols : {1, 3, 4, 7, 8, 50, 101}) {
    CAPTURE(cols);
    Tensor host = test::random_tensor({3, cols}, DType::f32, 11);
    host.data<float>()[0] = 1.00390625f;  // halfway: to even
    if (cols > 1) host.data<float>()[1] = std::numeric_limits<float>::infinity();
    if (cols > 2) host.data<float>()[2] = std::numeric_limits<float>::quiet_NaN();
    const Tensor narrow = host.to(kDevice).to(DType::bf16);
    CHECK(narrow.device() == kDevice);
    CHECK(gaps_are_zero(narrow));
    CHECK(test::same_bits(narrow.to(Device()), host.to(DType::bf16)));
    const Tensor wide = narrow.to(DType::f32);
    CHECK(gaps_are_zero(wide));
    CHECK(test::same_bits(wide.to(Device()), host.to(DType::bf16).to(DType::f32)));
  }
  // A slice that starts at an odd element cannot go by whole packs.
  const Tensor host = test::random_tensor({9}, DType::f32, 5);
  CHECK(test::same_bits(host.to(kDevice).slice(1, 8).to(DType::bf16).to(Device()), host.slice(1, 8).to(DType::bf16)));
  // Types without a kernel are converted on the host.
  CHECK(host.to(kDevice).to(DType::f64).to_doubles() == host.to_doubles());
}

TEST_CASE("device/fill/every type") {
  for (const DType dtype : kAllTypes) {
    CAPTURE(name_of(dtype));
    const Tensor t = Tensor::full({2, 3}, 5, dtype, kDevice);
    CHECK(t.to_doubles() == std::vector<double>(6, 5.0));
    CHECK(gaps_are_zero(t));
    CHECK(Tensor::zeros({2, 3}, dtype, kDevice).to_doubles() == std::vector<double>(6, 0.0));
  }
  CHECK(Tensor::scalar(2.5, DType::f32, kDevice).item() == 2.5);
  CHECK(Tensor::full({2, 2}, 1.5, DType::f32, kDevice).to_string().find("1.5") != std::string::npos);
}

TEST_CASE("device/empty/what nobody wrote is NaN on the simulator") {
  if (kDevice.kind != DeviceKind::sim) return;
  CHECK(std::isnan(Tensor::empty({3}, DType::f32, kDevice).to_doubles()[1]));
  CHECK(std::isnan(Tensor::empty({3}, DType::bf16, kDevice).to_doubles()[1]));
}

TEST_CASE("device/host access/refused in one line") {
  Tensor t = Tensor::zeros({2, 3}, DType::f32, kDevice);
  CHECK_THROWS_WITH_AS(t.data<float>(), doctest::Contains("host code may not touch"), DeviceError);
  CHECK_THROWS_AS(std::as_const(t).data<float>(), DeviceError);
  CHECK_THROWS_AS(t.raw_data(), DeviceError);
  CHECK_THROWS_AS(device_data<BFloat16>(t), DTypeError);
  CHECK_THROWS_AS(device_data<float>(Tensor::zeros({2})), DeviceError);
  CHECK(device_data<float>(Tensor()) == nullptr);
  CHECK_THROWS_WITH_AS(dispatch_f32_bf16(DType::f64, "op", []<class Elem>() {}), doctest::Contains("f64"), DTypeError);
  CHECK_THROWS_WITH_AS(
      on_device(Device(), "op", []<class Backend>(const kernels::Stream&) {}), doctest::Contains("op"), DeviceError);
}

TEST_CASE("device/moments/as on the CPU") {
  for (const Shape& shape : {Shape{2}, Shape{3, 1}, Shape{2, 3, 1}, Shape{300, 1}, Shape{70, 90}, Shape{70000, 3}}) {
    CAPTURE(shape.to_string());
    Tensor x = test::random_tensor(shape, DType::f32, 8, 0.01);
    for (std::int64_t r = 0; r < x.rows(); ++r)
      for (std::int64_t c = 0; c < x.cols(); ++c) x.data<float>()[r * x.pitch() + c] += 5;
    const Moments host = moments(x), there = moments(x.to(kDevice), 5);
    CHECK(std::abs(there.mean - host.mean) < 1e-12);
    CHECK(std::abs(there.std - host.std) < 1e-12);
    CHECK(there.min == host.min);
    CHECK(there.max == host.max);
  }
  Tensor bad = Tensor::full({300, 1}, 1.0);
  bad.data<float>()[299 * 4] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(moments(bad.to(kDevice)).mean));
  CHECK(std::isnan(moments(bad.to(kDevice)).std));
  CHECK(moments(Tensor::full({300, 1}, 0.3, DType::f32, kDevice), 0.5).std < 1e-7);
}

TEST_CASE("device/memory/counted per device") {
  const std::size_t before = device_pool_stats(kDevice).in_use_bytes, host_before = host_pool_stats().in_use_bytes;
  {
    const Tensor t = Tensor::empty({256, 256}, DType::f32, kDevice);
    CHECK(device_pool_stats(kDevice).in_use_bytes == before + 256 * 256 * 4);
    CHECK(host_pool_stats().in_use_bytes == host_before);
  }
  CHECK(device_pool_stats(kDevice).in_use_bytes == before);
  CHECK(device_pool_stats(kDevice).peak_in_use_bytes >= before + 256 * 256 * 4);
}

}  // namespace avid
