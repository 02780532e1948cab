// tensor/ops/weighted_mse.cpp -- checks and allocation of weighted_mse
#include "tensor/ops/weighted_mse.h"

#include "kernels/weighted_mse.h"
#include "tensor/ops/on_device.h"
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
  if (prediction.device().is_gpu()) {
    detail::check_parameter(weight, {prediction.dim(0)}, prediction, kOp, "weight");
  } else {
    detail::check_float(weight, kOp, "weight");
    check_shape(weight, {prediction.dim(0)}, kOp, "weight");
  }
  // The elements of a vector [B] are its clips.
  if (prediction.rank() == 1) return {.B = prediction.dim(0), .rows_per_clip = 1, .C = 1};
  return {.B = prediction.dim(0), .rows_per_clip = prediction.rows() / prediction.dim(0), .C = prediction.cols()};
}

/// Rows of clips; a vector's clips lie one element apart.
template <class Elem>
kernels::Rows<const Elem> clip_rows(const Tensor& t) {
  return {t.data<Elem>(), t.rank() == 1 ? 1 : t.pitch()};
}

template <class Elem>
kernels::WeightedMseDeviceArgs<Elem> device_args(
    const kernels::WeightedMseSizes& size, const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  const auto rows = [](const Tensor& t) {
    return kernels::Rows<const Elem>{device_data<Elem>(t), t.rank() == 1 ? 1 : t.pitch()};
  };
  return {.size = size, .prediction = rows(prediction), .target = rows(target), .weight = device_data<float>(weight)};
}

Tensor fwd_on_device(
    const kernels::WeightedMseSizes& size, const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  Tensor loss = Tensor::empty({}, DType::f32, prediction.device());
  Tensor workspace = Tensor::empty({kernels::weighted_mse_workspace(size)}, DType::f64, prediction.device());
  dispatch_f32_bf16(prediction.dtype(), kOp, [&]<class Elem>() {
    on_device(prediction.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::weighted_mse_fwd<Backend, Elem>(
          stream, device_args<Elem>(size, prediction, target, weight), device_mutable_data<float>(loss),
          device_mutable_data<double>(workspace));
    });
  });
  return loss;
}

Tensor bwd_on_device(
    const kernels::WeightedMseSizes& size, const Tensor& d_loss, const Tensor& prediction, const Tensor& target,
    const Tensor& weight) {
  detail::check_parameter(d_loss, {}, prediction, kOp, "d_loss");
  Tensor d_prediction = Tensor::empty(prediction.shape(), prediction.dtype(), prediction.device());
  dispatch_f32_bf16(prediction.dtype(), kOp, [&]<class Elem>() {
    on_device(prediction.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::weighted_mse_bwd<Backend, Elem>(
          stream, device_args<Elem>(size, prediction, target, weight), device_data<float>(d_loss),
          {device_mutable_data<Elem>(d_prediction), prediction.rank() == 1 ? 1 : d_prediction.pitch()});
    });
  });
  return d_prediction;
}

}  // namespace

Tensor weighted_mse_fwd(const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  const auto size = checked_sizes(prediction, target, weight);
  if (prediction.device().is_gpu()) return fwd_on_device(size, prediction, target, weight);
  const std::vector<double> weights = weight.to_doubles();
  double loss = 0;
  dispatch_f32_f64(prediction.dtype(), kOp, [&]<class Elem>() {
    loss = kernels::weighted_mse_fwd<Elem>(size, clip_rows<Elem>(prediction), clip_rows<Elem>(target), weights.data());
  });
  return Tensor::scalar(loss, prediction.dtype());
}

Tensor weighted_mse_bwd(const Tensor& d_loss, const Tensor& prediction, const Tensor& target, const Tensor& weight) {
  const auto size = checked_sizes(prediction, target, weight);
  if (prediction.device().is_gpu()) return bwd_on_device(size, d_loss, prediction, target, weight);
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
