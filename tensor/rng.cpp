// tensor/rng.cpp -- keyed random numbers; the arithmetic is in kernels/philox.h
#include "tensor/rng.h"

#include "kernels/philox.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

kernels::PhiloxStream stream_of(const RngKey& key) {
  return {.seed = key.seed, .step = key.step, .tag = static_cast<std::uint16_t>(key.purpose)};
}

}  // namespace

std::array<std::uint32_t, 4> philox_block(const RngKey& key, std::uint64_t block) {
  return stream_of(key).block(block);
}

std::uint32_t random_u32(const RngKey& key, std::uint64_t element) {
  return philox_block(key, element / 4)[static_cast<std::size_t>(element % 4)];
}

std::uint32_t random_below(const RngKey& key, std::uint64_t element, std::uint32_t n) {
  return static_cast<std::uint32_t>((std::uint64_t{random_u32(key, element)} * n) >> 32);
}

float random_uniform(const RngKey& key, std::uint64_t element) {
  return static_cast<float>(random_u32(key, element) >> 8) * 0x1p-24f;
}

void fill_normal(Tensor& t, const RngKey& key, std::uint64_t first_element) {
  detail::check_float(t, "fill_normal", "t");
  if (t.device().is_gpu()) {
    dispatch_f32_bf16(t.dtype(), "fill_normal", [&]<class Elem>() {
      on_device(t.device(), "fill_normal", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::normal_fill<Backend, Elem>(
            stream, device_mutable_data<Elem>(t), t.rows(), t.cols(), t.pitch(), stream_of(key), first_element);
      });
    });
    t.bump_version();
    return;
  }
  dispatch_f32_f64(t.dtype(), "fill_normal", [&]<class Elem>() {
    kernels::normal_fill(t.data<Elem>(), t.rows(), t.cols(), t.pitch(), stream_of(key), first_element);
  });
  t.bump_version();
}

void fill_uniform(Tensor& t, const RngKey& key, double low, double high, std::uint64_t first_element) {
  detail::check_float(t, "fill_uniform", "t");
  check(low < high, "fill_uniform: expected low < high, got [{}, {})", low, high);
  if (t.device().is_gpu()) {
    dispatch_f32_bf16(t.dtype(), "fill_uniform", [&]<class Elem>() {
      on_device(t.device(), "fill_uniform", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::uniform_fill<Backend, Elem>(
            stream, device_mutable_data<Elem>(t), t.rows(), t.cols(), t.pitch(), stream_of(key), first_element, low,
            high);
      });
    });
    t.bump_version();
    return;
  }
  dispatch_f32_f64(t.dtype(), "fill_uniform", [&]<class Elem>() {
    kernels::uniform_fill(t.data<Elem>(), t.rows(), t.cols(), t.pitch(), stream_of(key), first_element, low, high);
  });
  t.bump_version();
}

}  // namespace avid
