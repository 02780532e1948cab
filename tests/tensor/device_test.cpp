// tests/tensor/device_test.cpp -- tensors on a device: memory, copies, conversions, and what is refused
//
// The device is the simulator, or a GPU: the same statements hold.
#include <cmath>
#include <limits>

#include "tensor/device_graph.h"
#include "tensor/memory_watch.h"
#include "tensor/ops/clip_mix.h"
#include "tensor/ops/moments.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"
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

// The same numbers, the same zeros; NaN where the other has NaN, of whatever bits: a GPU rounds every NaN to 0x7fff.
bool same_values(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  if (a.dtype() != b.dtype() || x.size() != y.size()) return false;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const bool same = std::isnan(x[i]) ? std::isnan(y[i]) : x[i] == y[i] && std::signbit(x[i]) == std::signbit(y[i]);
    if (!same) return false;
  }
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
    CHECK(same_values(narrow, host.to(DType::bf16)));
    const Tensor wide = narrow.to(DType::f32);
    CHECK(gaps_are_zero(wide));
    CHECK(same_values(wide, host.to(DType::bf16).to(DType::f32)));
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

TEST_CASE("device/graph/repeats with what lies in device memory, and with the numbers of the recording") {
  Tensor x = Tensor::full({3, 5}, 1, DType::f32, kDevice), y;
  std::vector<float> host(15, 10.0f);
  double factor = 2;
  const auto work = [&] {
    const Tensor sent = Tensor::from_values(host, {3, 5}).to(kDevice);
    y = clip_mix(x, {.value = factor}, sent, {});
  };
  work();
  DeviceGraph graph = DeviceGraph::record(kDevice, work);
  CHECK(graph.num_steps() >= 3);
  CHECK(graph.memory_bytes() >= 2 * x.num_bytes());
  host.assign(15, -1.0f);
  factor = -1;
  for (const double value : {1.0, 7.0}) {
    x.fill(value);
    graph.replay();
    CHECK(test::same_bits(y.to(Device()), Tensor::full({3, 5}, 2 * value + 10)));
  }
}

TEST_CASE("device/graph/kernels that never ran are not recorded") {
  Tensor x = Tensor::zeros({7, 5}, DType::bf16, kDevice);  // no other test of this program draws numbers of this type
  const auto work = [&] { fill_normal(x, {3, RngPurpose::sample_noise, 1}, 0); };
  if (kDevice.kind == DeviceKind::sim)  // a GPU might load it while it records
    CHECK_THROWS_WITH_AS(
        DeviceGraph::record(kDevice, work),
        doctest::Contains("recorded before it ever ran; run the same work once without recording"), DeviceError);
  work();
  const Tensor once = x.to(Device());
  DeviceGraph graph = DeviceGraph::record(kDevice, work);
  x.fill(0);
  graph.replay();
  CHECK(test::same_bits(x.to(Device()), once));
  CHECK(once.to_doubles()[0] != 0);
}

TEST_CASE("device/graph/what fails leaves the device as it was") {
  const Tensor x = Tensor::full({64, 64}, 1, DType::f32, kDevice);
  const std::size_t before = device_pool_stats(kDevice).in_use_bytes;
  CHECK_THROWS_WITH_AS(DeviceGraph::record(kDevice, [&] { x.clone().item(); }), doctest::Contains("item"), ShapeError);
  CHECK_THROWS_WITH_AS(
      DeviceGraph::record(kDevice, [&] { x.clone().to_doubles(); }),
      doctest::Contains("recorded work cannot copy to the host"), DeviceError);
  CHECK_THROWS_WITH_AS(
      DeviceGraph::record(
          kDevice,
          [&] {
            on_device(kDevice, "test", []<class Backend>(const kernels::Stream& stream) {
              kernels::device_synchronise<Backend>(stream);
            });
          }),
      doctest::Contains("cannot wait"), DeviceError);
  CHECK_THROWS_WITH_AS(
      DeviceGraph::record(
          kDevice,
          [&] {
            const Tensor first = x.clone();
            Tensor::empty({std::int64_t{1} << 28, std::int64_t{1} << 20}, DType::f32, kDevice);
          }),
      doctest::Contains("could not get 1073741824.0 MiB more"), OutOfMemoryError);
  CHECK_THROWS_AS(DeviceGraph::record(Device(), [] {}), DeviceError);
  CHECK_THROWS_AS(DeviceGraph().replay(), DeviceError);
  CHECK(device_pool_stats(kDevice).in_use_bytes == before);
  CHECK(test::same_bits(x.clone().to(Device()), Tensor::full({64, 64}, 1)));  // work is done again, not recorded
}

TEST_CASE("device/graph/keeps what it reads, and reuses what it gave back") {
  constexpr std::int64_t kRows = 512, kBytes = kRows * 512 * 4;
  const Shape shape{kRows, 512};
  Tensor input = Tensor::full(shape, 3, DType::f32, kDevice), out;
  clip_mix(input, {}, input, {});  // what is recorded has run before
  reset_device_pool_peak(kDevice);
  DeviceGraph graph = DeviceGraph::record(kDevice, [&] {
    out = clip_mix(input, {}, input, {});  // 6
    input = {};                            // the last handle
    for (int i = 0; i < 10; ++i) out = clip_mix(out, {}, out, {.value = 0.5});
  });
  CHECK(graph.memory_bytes() >= 2 * kBytes);
  CHECK(graph.memory_bytes() < 6 * kBytes);                               // ten results, two at a time
  const Tensor elsewhere = Tensor::full(shape, -1, DType::f32, kDevice);  // would lie where the input was
  for (int i = 0; i < 2; ++i) {
    graph.replay();
    CHECK(test::rel_l2(out.to(Device()), Tensor::full(shape, 6 * std::pow(1.5, 10))) < 1e-6);
  }
  CHECK(test::same_bits(elsewhere.to(Device()), Tensor::full(shape, -1)));
  const Tensor kept = out;
  graph = {};  // results outlive the graph
  CHECK(test::rel_l2(kept.to(Device()), Tensor::full(shape, 6 * std::pow(1.5, 10))) < 1e-6);
}

TEST_CASE("device/graph/work that ran under watch is recorded in about as much memory as it takes") {
  // Every block is larger than the gaps that the earlier ones leave.
  Tensor out;
  const auto work = [&] {
    for (std::int64_t n = 1; n <= 24; ++n) {
      const Tensor before = out;
      out = Tensor::full({n, 16384}, static_cast<double>(n), DType::f32, kDevice);
      if (n > 1) out.slice(0, n - 1).copy_from(before);
    }
  };
  const std::size_t in_use = device_pool_stats(kDevice).in_use_bytes;
  reset_device_pool_peak(kDevice);
  MemoryWatch watch(kDevice);
  work();
  watch.end_of_work();
  const auto most = static_cast<double>(device_pool_stats(kDevice).peak_in_use_bytes - in_use);
  const std::vector<double> want = out.to_doubles();
  out = {};
  DeviceGraph graph = DeviceGraph::record(kDevice, work, &watch);
  CHECK(static_cast<double>(graph.memory_bytes()) < 1.1 * most);
  for (int i = 0; i < 2; ++i) {
    graph.replay();
    CHECK(out.to_doubles() == want);
  }
}

TEST_CASE("device/upload/arrives when it is asked to, and the buffer is free again") {
  on_device(kDevice, "test", []<class Backend>(const kernels::Stream& stream) {
    Tensor there = Tensor::zeros({4}, DType::f32, kDevice);
    const std::unique_ptr<kernels::Upload> upload = kernels::make_upload<Backend>(stream, 16);
    upload->last_use();
    for (float value = 1; value < 4; ++value) {
      for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(upload->buffer())[i] = value;
      upload->start(device_mutable_data<float>(there), 16);
      if (value == 2) upload->buffer()[0] = std::byte{7};  // waits, and so changes nothing that was sent
      // On the simulator nobody sees old values meanwhile.
      if (kDevice.kind == DeviceKind::sim && value != 2) CHECK(std::isnan(there.to_doubles()[0]));
      upload->arrive();
      CHECK(test::same_bits(there.to(Device()), Tensor::full({4}, static_cast<double>(value))));
      upload->last_use();
    }
    if (kDevice.kind != DeviceKind::sim) return;
    CHECK_THROWS_AS(upload->arrive(), kernels::GpuError);
    upload->start(device_mutable_data<float>(there), 16);
    CHECK_THROWS_AS(upload->last_use(), kernels::GpuError);
    CHECK_THROWS_AS(upload->start(device_mutable_data<float>(there), 16), kernels::GpuError);
  });
}

}  // namespace avid
