// tensor/rng.cpp -- keyed random numbers; the arithmetic is in kernels/philox.h
#include "tensor/rng.h"

#include "kernels/philox.h"

namespace avid {
namespace {

kernels::PhiloxStream stream_of(const RngKey& key) {
  return {.seed = key.seed, .step = key.step, .tag = static_cast<std::uint16_t>(key.purpose)};
}

void check_fillable(const Tensor& t, const char* op) {
  check<DTypeError>(
      t.defined() && (t.dtype() == DType::f32 || t.dtype() == DType::f64), "{}: t: expected f32 or f64, got {}", op,
      t.describe());
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
  check_fillable(t, "fill_normal");
  dispatch_f32_f64(t.dtype(), "fill_normal", [&]<class Elem>() {
    kernels::normal_fill(t.data<Elem>(), t.rows(), t.cols(), t.pitch(), stream_of(key), first_element);
  });
  t.bump_version();
}

void fill_uniform(Tensor& t, const RngKey& key, double low, double high, std::uint64_t first_element) {
  check_fillable(t, "fill_uniform");
  check(low < high, "fill_uniform: expected low < high, got [{}, {})", low, high);
  dispatch_f32_f64(t.dtype(), "fill_uniform", [&]<class Elem>() {
    kernels::uniform_fill(t.data<Elem>(), t.rows(), t.cols(), t.pitch(), stream_of(key), first_element, low, high);
  });
  t.bump_version();
}

}  // namespace avid
