// tensor/ops/weighted_mse.h -- squared error with a weight per clip, the diffusion loss
#pragma once

#include "tensor/tensor.h"

namespace avid {

///   loss = mean_b weight[b] * mean_{rest} (prediction[b,..] - target[b,..])^2
///
/// Shapes   prediction, target [B,...] with at least one element; weight [B]; returns a scalar.
/// Dtypes   prediction, target f32 or f64, the same; weight f32 or f64. The loss has the dtype of the prediction,
///          summed in f64. On a device: prediction, target f32 or bf16; weight, the loss and d_loss f32.
/// Grad     d_prediction = d_loss * weight[b] * 2 (prediction - target) / numel; target and weight are data.
/// Source   pixel.md 1.4. Deviations: none.
Tensor weighted_mse_fwd(const Tensor& prediction, const Tensor& target, const Tensor& weight);
/// d_loss is a scalar.
Tensor weighted_mse_bwd(const Tensor& d_loss, const Tensor& prediction, const Tensor& target, const Tensor& weight);

}  // namespace avid
