// kernels/conv3d.h -- 3-D convolution on raw pointers, channels last (contract: tensor/ops/conv3d.h)
#pragma once

#include <array>
#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Extents of one convolution, [t,y,x] order in the arrays. Rows of x, x2 are positions b,t,y,x of the input; rows of
/// out those of the output; rows of w are (o, it, iy, ix), each holding I + I2 channels.
struct Conv3dSize {
  std::int64_t B = 0;
  std::array<std::int64_t, 3> in{};   ///< T,H,W of x
  std::array<std::int64_t, 3> out{};  ///< T,H,W of out
  std::int64_t I = 0, I2 = 0, O = 0;  ///< channels of x, x2 (0 when absent), out
  std::array<std::int64_t, 3> kernel{1, 1, 1}, stride{1, 1, 1}, padding{};

  std::int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  std::int64_t in_positions() const { return B * in[0] * in[1] * in[2]; }
  std::int64_t out_positions() const { return B * out[0] * out[1] * out[2]; }
  /// Multiplications and additions of one pass (forward, or one of the two gradients), taps in the padding included.
  double flops() const { return 2.0 * static_cast<double>(out_positions() * O * taps() * (I + I2)); }
};

/// out = x * w + bias (cross-correlation). x2 and bias may be null. Gaps of out are left zero.
/// f32 runs the tuned path (conv3d_cpu_tiled.cpp), f64 the reference.
void conv3d_fwd(
    const Conv3dSize&, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
    Rows<float> out);
void conv3d_fwd(
    const Conv3dSize&, Rows<const double> x, Rows<const double> x2, Rows<const double> w, const double* bias,
    Rows<double> out);

/// d_x, d_x2 (either may be null) from d_out. Overwrites.
void conv3d_bwd_data(
    const Conv3dSize&, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x, Rows<float> d_x2);
void conv3d_bwd_data(
    const Conv3dSize&, Rows<const double> d_out, Rows<const double> w, Rows<double> d_x, Rows<double> d_x2);

/// d_w and d_bias (either may be null) from d_out. Overwrites.
void conv3d_bwd_weight(
    const Conv3dSize&, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
    float* d_bias);
void conv3d_bwd_weight(
    const Conv3dSize&, Rows<const double> d_out, Rows<const double> x, Rows<const double> x2, Rows<double> d_w,
    double* d_bias);

// ---- the reference: the equation as loops, sums in f64, for float and double ----
template <class Elem>
void conv3d_ref_fwd(
    const Conv3dSize&, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w, const Elem* bias, Rows<Elem> out);
template <class Elem>
void conv3d_ref_bwd_data(
    const Conv3dSize&, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x, Rows<Elem> d_x2);
template <class Elem>
void conv3d_ref_bwd_weight(
    const Conv3dSize&, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2, Rows<Elem> d_w, Elem* d_bias);

// ---- on a device (conv3d.cu) ----
// Elem is float or BFloat16: activations and weights. bias and the gradients of parameters are f32. Sums in f32, in a
// fixed order: the same bits in every run. All rows start at 16-byte boundaries (data and pitch). Gaps of outputs are
// written as zero. At most 9 taps in t, 11 in y and x. workspace: as many bytes as <function>_workspace_bytes says,
// 256-byte aligned, uninitialised; null when that is 0. Throws GpuError.

template <class Elem>
std::int64_t conv3d_fwd_workspace_bytes(const Conv3dSize&);
template <class Elem>
std::int64_t conv3d_bwd_data_workspace_bytes(const Conv3dSize&);
template <class Elem>
std::int64_t conv3d_bwd_weight_workspace_bytes(const Conv3dSize&);

/// out = x * w + bias. x2 and bias may be null.
template <class Backend, class Elem>
void conv3d_fwd(
    const Stream&, const Conv3dSize&, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w, const float* bias,
    Rows<Elem> out, void* workspace);
/// d_x, d_x2 (either may be null) from d_out. Overwrites; d_x begins at add_x, d_x2 at add_x2 (or null; may not
/// overlap).
template <class Backend, class Elem>
void conv3d_bwd_data(
    const Stream&, const Conv3dSize&, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x, Rows<Elem> d_x2,
    void* workspace, Rows<const Elem> add_x = {}, Rows<const Elem> add_x2 = {});
/// d_w and d_bias (either may be null) from d_out. Overwrites; the gaps of d_w are left alone.
template <class Backend, class Elem>
void conv3d_bwd_weight(
    const Stream&, const Conv3dSize&, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2, Rows<float> d_w,
    float* d_bias, void* workspace);

}  // namespace avid::kernels
