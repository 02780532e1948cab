// kernels/linear_layer_norm.h -- the data gradient of a linear layer behind a LayerNorm, through both, on a device
#pragma once

#include "kernels/layer_norm.h"
#include "kernels/linear.h"

namespace avid::kernels {

/// Gradients of y = linear(layer_norm(x)) with respect to x and gamma; either may be absent.
template <class Elem>
struct LinearLayerNormGrads {
  Rows<const Elem> d_out;        ///< [P,O]
  Rows<const Elem> d_residual;   ///< [P,I], added to d_x, or absent; may be d_x itself
  Rows<Elem> d_h;                ///< [P,I], working memory: the gradient of layer_norm(x), unless it stays in a kernel
  Rows<Elem> d_x;                ///< [P,I]
  float* d_gamma = nullptr;      ///< [I]
  float* workspace = nullptr;    ///< layer_norm_bwd_workspace(P, I) elements
  void* linear_space = nullptr;  ///< linear_bwd_data_workspace_bytes
};

/// Is it one product that ends in the norm's gradient? bf16, where a block of the product holds whole rows: by the
/// sizes and the kind of device alone.
template <class Backend, class Elem>
bool linear_layer_norm_bwd_is_one_kernel(const LinearSize& s);

/// d_h = d_out w; d_x, d_gamma = layer_norm_bwd of d_h. `norm` is that of x; its out and beta are not used. One kernel
/// does not round d_h, two do. The same bits in every run.
template <class Backend, class Elem>
void linear_layer_norm_bwd(
    const Stream& stream, const LinearSize& s, Rows<const Elem> w, const LayerNormDeviceArgs<Elem>& norm,
    const LinearLayerNormGrads<Elem>& grads);

}  // namespace avid::kernels
