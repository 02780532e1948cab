// kernels/conv_transpose3d.h -- transposed 3-D convolution on raw pointers (contract: tensor/ops/conv_transpose3d.h)
//
// It is the adjoint of a convolution from its output's space back to its input's: with the roles of the channels
// swapped, its forward is conv3d's data gradient, its data gradient is conv3d's forward, and its weight gradient is
// conv3d's with both inputs exchanged. `adjoint` gives that convolution; the weights [I,kt,kh,kw,O] are already laid
// out for it.
#pragma once

#include "kernels/conv3d.h"

namespace avid::kernels {

/// Extents of one transposed convolution: `in`, I belong to x, `out`, O to the (larger) output.
struct ConvTranspose3dSize {
  std::int64_t B = 0;
  std::array<std::int64_t, 3> in{}, out{};
  std::int64_t I = 0, O = 0;
  std::array<std::int64_t, 3> kernel{1, 1, 1}, stride{1, 1, 1}, padding{};

  std::int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  std::int64_t in_positions() const { return B * in[0] * in[1] * in[2]; }
  std::int64_t out_positions() const { return B * out[0] * out[1] * out[2]; }
  double flops() const { return 2.0 * static_cast<double>(in_positions() * I * taps() * O); }
  /// The convolution from out's space to x's whose adjoint this is.
  Conv3dSize adjoint() const;
};

/// out[q,o] = bias[o] + sum over (p,k) with q = p*stride - padding + k of w[i,k,o] * x[p,i]. bias may be null.
void conv_transpose3d_fwd(
    const ConvTranspose3dSize&, Rows<const float> x, Rows<const float> w, const float* bias, Rows<float> out);
void conv_transpose3d_fwd(
    const ConvTranspose3dSize&, Rows<const double> x, Rows<const double> w, const double* bias, Rows<double> out);

/// d_x from d_out. Overwrites.
void conv_transpose3d_bwd_data(
    const ConvTranspose3dSize&, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x);
void conv_transpose3d_bwd_data(
    const ConvTranspose3dSize&, Rows<const double> d_out, Rows<const double> w, Rows<double> d_x);

/// d_w and d_bias (either may be null). Overwrites.
void conv_transpose3d_bwd_weight(
    const ConvTranspose3dSize&, Rows<const float> d_out, Rows<const float> x, Rows<float> d_w, float* d_bias);
void conv_transpose3d_bwd_weight(
    const ConvTranspose3dSize&, Rows<const double> d_out, Rows<const double> x, Rows<double> d_w, double* d_bias);

// ---- the reference: its own loops, scattering each input position, sums in f64 ----
template <class Elem>
void conv_transpose3d_ref_fwd(
    const ConvTranspose3dSize&, Rows<const Elem> x, Rows<const Elem> w, const Elem* bias, Rows<Elem> out);
template <class Elem>
void conv_transpose3d_ref_bwd_data(
    const ConvTranspose3dSize&, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x);
template <class Elem>
void conv_transpose3d_ref_bwd_weight(
    const ConvTranspose3dSize&, Rows<const Elem> d_out, Rows<const Elem> x, Rows<Elem> d_w, Elem* d_bias);

// ---- on a device (conv_transpose3d.cu): element types, limits and workspace as in conv3d.h ----

template <class Elem>
std::int64_t conv_transpose3d_fwd_workspace_bytes(const ConvTranspose3dSize&);
template <class Elem>
std::int64_t conv_transpose3d_bwd_weight_workspace_bytes(const ConvTranspose3dSize&);

/// bias (f32) may be null.
template <class Backend, class Elem>
void conv_transpose3d_fwd(
    const Stream&, const ConvTranspose3dSize&, Rows<const Elem> x, Rows<const Elem> w, const float* bias,
    Rows<Elem> out, void* workspace);
/// d_x from d_out. Overwrites.
template <class Backend, class Elem>
void conv_transpose3d_bwd_data(
    const Stream&, const ConvTranspose3dSize&, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x);
/// d_w and d_bias (f32; either may be null). Overwrites; the gaps of d_w are left alone.
template <class Backend, class Elem>
void conv_transpose3d_bwd_weight(
    const Stream&, const ConvTranspose3dSize&, Rows<const Elem> d_out, Rows<const Elem> x, Rows<float> d_w,
    float* d_bias, void* workspace);

}  // namespace avid::kernels
