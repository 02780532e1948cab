// kernels/vendor/linear_products.cpp -- linear's passes as column-major products
#include "kernels/vendor/linear_products.h"

namespace avid::kernels::vendor {

std::vector<Product> linear_fwd_products(
    const LinearSize& size, const LinearPitches& pitches, bool has_residual, bool has_bias) {
  if (size.P == 0 || size.O == 0) return {};
  const MatrixAt out{Operand::out, 0, pitches.out};
  std::vector<Product> products;
  products.push_back(
      {.transpose_a = true,
       .m = size.O,
       .n = size.P,
       .k = size.I,
       .a = {Operand::w, 0, pitches.w},
       .b = {Operand::x, 0, pitches.x},
       .c = has_residual ? MatrixAt{Operand::residual, 0, pitches.residual} : out,
       .d = out,
       .beta = has_residual ? 1.0f : 0.0f});
  if (size.I2 > 0) {
    Product second = products.front();
    second.k = size.I2;
    second.a.offset = size.I;
    second.b = {Operand::x2, 0, pitches.x2};
    second.c = out;
    second.beta = 1;
    products.push_back(second);
  }
  products.back().bias = has_bias;
  return products;
}

std::vector<Product> linear_bwd_data_products(
    const LinearSize& size, const LinearPitches& pitches, bool needs_x, bool needs_x2) {
  std::vector<Product> products;
  if (size.P == 0) return products;
  const auto add = [&](Operand to, std::int64_t columns, std::int64_t offset, std::int64_t pitch) {
    if (columns == 0) return;
    products.push_back(
        {.m = columns,
         .n = size.P,
         .k = size.O,
         .a = {Operand::w, offset, pitches.w},
         .b = {Operand::d_out, 0, pitches.out},
         .c = {to, 0, pitch},
         .d = {to, 0, pitch}});
  };
  if (needs_x) add(Operand::d_x, size.I, 0, pitches.x);
  if (needs_x2) add(Operand::d_x2, size.I2, size.I, pitches.x2);
  return products;
}

std::vector<Product> linear_bwd_weight_products(const LinearSize& size, const LinearPitches& pitches) {
  std::vector<Product> products;
  if (size.O == 0) return products;
  const auto add = [&](Operand from, std::int64_t columns, std::int64_t offset, std::int64_t pitch) {
    if (columns == 0) return;
    const MatrixAt d{Operand::d_w, offset, pitches.w};
    products.push_back(
        {.transpose_b = true,
         .m = columns,
         .n = size.O,
         .k = size.P,
         .a = {from, 0, pitch},
         .b = {Operand::d_out, 0, pitches.out},
         .c = d,
         .d = d});
  };
  add(Operand::x, size.I, 0, pitches.x);
  add(Operand::x2, size.I2, size.I, pitches.x2);
  return products;
}

std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address);
  std::uint32_t alignment = 256;
  while (alignment > 1 && bits % alignment != 0) alignment /= 2;
  return alignment;
}

}  // namespace avid::kernels::vendor
