// tensor/ops/weighted_mse.cpp -- checks and allocation of weighted_mse
#include "tensor/ops/weighted_mse.h"

#include "kernels/weighted_mse.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "weighted_mse";

kernels::WeightedMseSizes checked_sizes(const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  detail::check_float(prediction, kOp, "prediction");
  check<ShapeError>(
      prediction.rank() >= 1 && prediction.numel() > 0,
      "{}: prediction: expected [B,...] with at least one element, got {}", kOp, prediction.describe());
  detail::check_like(target, prediction, kOp, "target");
  detail::check_float(weight, kOp, "weight");
  check_shape(weight, {prediction.dim(0)}, kOp, "weight");
  // The elements of a vector [B] are its clips.
  if (prediction.rank() == 1) return {.B = prediction.dim(0), .rows_per_clip = 1, .C = 1};
  return {.B = prediction.dim(0), .rows_per_clip = prediction.rows() / prediction.dim(0), .C = prediction.cols()};
}

/// Rows of clips; a vector's clips lie one element apart.
template <class Elem>
kernels::Rows<const Elem> clip_rows(const Tensor& t) {
  return {t.data<Elem>(), t.rank() == 1 ? 1 : t.pitch()};
}

}  // namespace

Tensor weighted_mse_fwd(const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  const auto size = checked_sizes(prediction, target, weight);
  const std::vector<double> weights = weight.to_doubles();
  double loss = 0;
  dispatch_f32_f64(prediction.dtype(), kOp, [&]<class Elem>() {
    loss = kernels::weighted_mse_fwd<Elem>(size, clip_rows<Elem>(prediction), clip_rows<Elem>(target), weights.data());
  });
  return Tensor::scalar(loss, prediction.dtype());
}

Tensor weighted_mse_bwd(const Tensor& d_loss, const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  const auto size = checked_sizes(prediction, target, weight);
  const std::vector<double> weights = weight.to_doubles();
  Tensor d_prediction = Tensor::empty(prediction.shape(), prediction.dtype());
  dispatch_f32_f64(prediction.dtype(), kOp, [&]<class Elem>() {
    kernels::weighted_mse_bwd<Elem>(
        size, clip_rows<Elem>(prediction), clip_rows<Elem>(target), weights.data(), d_loss.item(),
        {d_prediction.data<Elem>(), prediction.rank() == 1 ? 1 : d_prediction.pitch()});
  });
  return d_prediction;
}

}  // namespace avid
