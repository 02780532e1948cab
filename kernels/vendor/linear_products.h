// kernels/vendor/linear_products.h -- linear's passes as the column-major products that cuBLASLt computes; plain data
//
// Our rows [R,C] with a pitch are a column-major matrix of C x R with the pitch as leading dimension: nothing is
// copied.
//
//   out^T [O,P]  = w [I,O]^T x [I,P]  (+ w2^T x2, added to out)      + C (residual) + bias
//   d_x^T [I,P]  = w [I,O] d_out [O,P]
//   d_w^T [I,O]  = x [I,P] d_out [O,P]^T                              f32, whatever the activations are
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/linear.h"

namespace avid::kernels::vendor {

/// The tensors of linear and of its gradients.
enum class Operand { none, x, x2, w, residual, out, d_out, d_x, d_x2, d_w };

/// Where a matrix starts and how far its columns lie apart, in elements.
struct MatrixAt {
  Operand operand = Operand::none;
  std::int64_t offset = 0, leading = 0;
};

/// D = op(A) op(B) + beta C + bias; op(A) m x k, op(B) k x n, C and D m x n, all column-major. bias: one number per row
/// of D.
struct Product {
  bool transpose_a = false, transpose_b = false;
  std::int64_t m = 0, n = 0, k = 0;
  MatrixAt a, b, c, d;
  float beta = 0;
  bool bias = false;
};

/// Pitches of the operands that a pass has.
struct LinearPitches {
  std::int64_t x = 0, x2 = 0, w = 0, residual = 0,
               out = 0;  ///< out also stands for d_out, x and x2 for their gradients
};

/// In this order: a later product may add to what an earlier one wrote. Empty where there is nothing to do (P or O is
/// 0). With two sources the sum goes through out: in bf16 it is rounded once more.
std::vector<Product> linear_fwd_products(
    const LinearSize& size, const LinearPitches& pitches, bool has_residual, bool has_bias);
std::vector<Product> linear_bwd_data_products(
    const LinearSize& size, const LinearPitches& pitches, bool needs_x, bool needs_x2);
/// pitches.w is that of d_w.
std::vector<Product> linear_bwd_weight_products(const LinearSize& size, const LinearPitches& pitches);

/// Largest power of two, at most 256, that divides the address: what an algorithm may assume of it.
std::uint32_t alignment_of(const void* address);

}  // namespace avid::kernels::vendor
