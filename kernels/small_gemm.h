// kernels/small_gemm.h -- matrix products of cache-sized f32 blocks, single-threaded, for use inside a parallel region
//
// All long dimensions ("columns") lie in SIMD lanes: they are padded to a multiple of kLanes and aligned, so there is
// no tail in the inner loops.
#pragma once

#include <cstdint>

namespace avid::kernels {

/// C[m,n] = (add ? C[m,n] : 0) + sum_k A[m,k] B[k,n]
///
/// Layout   A[m,k] at a[m * a_row + k * a_col], any strides (so a transposed A needs no copy);
///          B[k,n] at b[k * b_row + n]; C[m,n] at c[m * c_row + n]; n < N, a multiple of kLanes;
///          b, c and their row strides aligned to kLanes floats.
void gemm_columns(
    std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t a_row, std::int64_t a_col,
    const float* b, std::int64_t b_row, float* c, std::int64_t c_row, bool add);

/// C[m,n] += sum_k A[m,k] B[n,k]: a product over columns.
///
/// Layout   A[m,k] at a[m * a_row + k], B[n,k] at b[n * b_row + k]; k < K, a multiple of kLanes; a, b and their row
///          strides aligned to kLanes floats. C[m,n] at c[m * c_row + n], any alignment.
void gemm_over_columns(
    std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t a_row, const float* b,
    std::int64_t b_row, float* c, std::int64_t c_row);

/// kLanes independent small products at once, one per lane: C[m,n] = sum_k A[m,k] B[k,n], every element a register.
///
/// Layout   A[m,k] at a[m * a_row + k * a_col .. + kLanes), and so on; all offsets multiples of kLanes.
void gemm_per_lane(
    std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t a_row, std::int64_t a_col,
    const float* b, std::int64_t b_row, std::int64_t b_col, float* c, std::int64_t c_row, std::int64_t c_col);

}  // namespace avid::kernels
