// kernels/linear.h -- matrix products over rows of channels (contract: tensor/ops/linear.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Extents of out[r,o] = sum_i w[o,i] * [x | x2][r,i]: P rows, w has O rows of I + I2 columns.
struct LinearSize {
  std::int64_t P = 0, I = 0, I2 = 0, O = 0;
  double flops() const { return 2.0 * static_cast<double>(P * (I + I2) * O); }
};

/// out = [x | x2] w^T + bias + residual; x2, bias, residual may be null. residual may not overlap out. Gaps of out stay
/// zero. f32 runs the tuned path (linear_cpu_tiled.cpp), f64 the reference.
void linear_fwd(
    const LinearSize&, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
    Rows<const float> residual, Rows<float> out);
void linear_fwd(
    const LinearSize&, Rows<const double> x, Rows<const double> x2, Rows<const double> w, const double* bias,
    Rows<const double> residual, Rows<double> out);

/// d_x, d_x2 (either may be null) = the column blocks of d_out w. Overwrites.
void linear_bwd_data(
    const LinearSize&, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x, Rows<float> d_x2);
void linear_bwd_data(
    const LinearSize&, Rows<const double> d_out, Rows<const double> w, Rows<double> d_x, Rows<double> d_x2);

/// d_w = d_out^T [x | x2] and d_bias = column sums of d_out (either may be null). Overwrites.
void linear_bwd_weight(
    const LinearSize&, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
    float* d_bias);
void linear_bwd_weight(
    const LinearSize&, Rows<const double> d_out, Rows<const double> x, Rows<const double> x2, Rows<double> d_w,
    double* d_bias);

// ---- the reference: the equation as loops, sums in f64, for float and double ----
template <class Elem>
void linear_ref_fwd(
    const LinearSize&, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w, const Elem* bias,
    Rows<const Elem> residual, Rows<Elem> out);
template <class Elem>
void linear_ref_bwd_data(
    const LinearSize&, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x, Rows<Elem> d_x2);
template <class Elem>
void linear_ref_bwd_weight(
    const LinearSize&, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2, Rows<Elem> d_w, Elem* d_bias);

// ---- on a device (linear.cu): element types, limits and workspace as in conv3d.h ----

template <class Elem>
std::int64_t linear_fwd_workspace_bytes(const LinearSize&);
template <class Elem>
std::int64_t linear_bwd_data_workspace_bytes(const LinearSize&);
template <class Elem>
std::int64_t linear_bwd_weight_workspace_bytes(const LinearSize&);

/// out = [x | x2] w^T + bias + residual, rounded once; x2, bias (f32), residual may be null. residual may be out.
template <class Backend, class Elem>
void linear_fwd(
    const Stream&, const LinearSize&, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w, const float* bias,
    Rows<const Elem> residual, Rows<Elem> out, void* workspace);
/// d_x, d_x2 (either may be null). Overwrites; d_x begins at add_x, d_x2 at add_x2 (or null; may not overlap).
template <class Backend, class Elem>
void linear_bwd_data(
    const Stream&, const LinearSize&, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x, Rows<Elem> d_x2,
    void* workspace, Rows<const Elem> add_x = {}, Rows<const Elem> add_x2 = {});
/// d_w and d_bias (f32; either may be null). Overwrites; the gaps of d_w are left alone.
template <class Backend, class Elem>
void linear_bwd_weight(
    const Stream&, const LinearSize&, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2, Rows<float> d_w,
    float* d_bias, void* workspace);

}  // namespace avid::kernels
