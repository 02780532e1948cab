// tensor/ops/unet_input.h -- conditioning frames, noisy video and base output as the channels a U-Net reads
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// Stacks the K clean conditioning frames along the channels of every generated frame, then the noisy video, then the
/// frozen model's prediction.
///
///   out[b,t,h,w,:] = [cond[b,0..K-1,h,w,0], cond[b,0..K-1,h,w,1], ..] ++ x_t[b,t,h,w,:] ++ base[b,t,h,w,:]
///
/// The conditioning channels are colour-major, frame-minor: channel colour * K + frame.
/// Shapes   cond [B,K,H,W,C]; x_t [B,T,H,W,C]; base [B,T,H,W,C] or undefined; returns [B,T,H,W,C*K+C(+C)]; C = 3 for
///          pictures.
/// Dtypes   f32 or f64, one for all.
/// Range    cond in [-1,1] (clean frames); not checked.
/// Grad     x_t and base: their channels of d_out. cond is data.
/// Source   pixel.md 0 and 2.2. Deviations: none.
Tensor unet_input_fwd(const Tensor& cond, const Tensor& x_t, const Tensor& base);

struct UnetInputGrads {
  Tensor d_x_t, d_base;  ///< [B,T,H,W,C]; undefined where not asked for
};
/// `num_cond_channels` is C*K, `num_colours` C.
UnetInputGrads unet_input_bwd(
    const Tensor& d_out, std::int64_t num_cond_channels, std::int64_t num_colours, bool needs_x_t, bool needs_base);

}  // namespace avid
