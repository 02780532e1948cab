// tensor/ops/cross_entropy.h -- mean negative log-probability of the right class
#pragma once

#include "tensor/tensor.h"

namespace avid {

///   loss = mean_r ( log sum_a exp(logits[r,a]) - logits[r,ids[r]] )
///
/// Shapes   logits [...,A] with at least one row; ids [...]; returns a scalar of the logits' dtype.
/// Dtypes   logits f32 or f64, math in f64; ids i64. On a device: logits f32 or bf16, math and loss in f32.
/// Grad     d_logits = d_loss / rows * (softmax(logits) - onehot(ids)).
/// Errors   ShapeError, DTypeError; ShapeError as well for an id outside 0 .. A-1.
///          On a device the ids are not read back: there such an id makes the loss NaN.
Tensor cross_entropy_fwd(const Tensor& logits, const Tensor& ids);
/// d_loss is a scalar.
Tensor cross_entropy_bwd(const Tensor& d_loss, const Tensor& logits, const Tensor& ids);

}  // namespace avid
