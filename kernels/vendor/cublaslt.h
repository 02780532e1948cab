// kernels/vendor/cublaslt.h -- linear through cuBLASLt; for CUDA builds (others do not define these)
//
// Measured  never run on a GPU yet
#pragma once

#include "kernels/vendor/linear_products.h"
#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Bytes that each call needs, whatever the sizes; 256-byte aligned, uninitialised.
inline constexpr std::int64_t kGemmWorkspaceBytes = std::int64_t{32} << 20;
/// With --gemm auto the fastest of so many algorithms is taken, otherwise the library's first.
inline constexpr std::size_t kTimedAlgorithms = 6;

// The calls mean what those of kernels/linear.h mean, with these differences. Elem bf16: the bias is rounded to bf16
// (the library adds it in the type of the output); with x2 the output is rounded after each of the two products. f32 is
// computed in f32 ("pedantic"), no TF32. Algorithms are found once for a shape; the same
// bits in every run. Gaps of outputs are zeroed by a separate pass where rows have some. d_bias is not among the
// results of library_linear_bwd_weight. Throws LibraryError.

template <class Elem>
void library_linear_fwd(
    const Stream& stream, const LinearSize& size, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w,
    const float* bias, Rows<const Elem> residual, Rows<Elem> out, void* workspace);
template <class Elem>
void library_linear_bwd_data(
    const Stream& stream, const LinearSize& size, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x,
    Rows<Elem> d_x2, void* workspace);
template <class Elem>
void library_linear_bwd_weight(
    const Stream& stream, const LinearSize& size, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, void* workspace);

}  // namespace avid::kernels::vendor
