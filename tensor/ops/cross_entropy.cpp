// tensor/ops/cross_entropy.cpp -- checks and allocation of cross_entropy
#include "tensor/ops/cross_entropy.h"

#include "kernels/cross_entropy.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "cross_entropy";

/// The checked ids, dense.
Tensor checked_ids(const Tensor& logits, const Tensor& ids_any) {
  detail::check_float(logits, kOp, "logits");
  check<ShapeError>(
      logits.rank() >= 1 && logits.numel() > 0, "{}: logits: expected [...,A] with at least one row, got {}", kOp,
      logits.describe());
  detail::check_operand(
      ids_any, Shape(std::span(logits.shape().begin(), logits.shape().end() - 1)), DType::i64, kOp, "ids");
  detail::check_same_device(ids_any, logits, kOp, "ids");
  const Tensor ids = detail::usual_pitch(ids_any);
  if (ids.device().is_gpu()) return ids;
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    const std::int64_t id = ids.data<std::int64_t>()[i];
    check<ShapeError>(id >= 0 && id < logits.cols(), "{}: ids: expected 0 to {}, got {}", kOp, logits.cols() - 1, id);
  }
  return ids;
}

}  // namespace

Tensor cross_entropy_fwd(const Tensor& logits, const Tensor& ids_any) {
  const Tensor ids = checked_ids(logits, ids_any);
  if (logits.device().is_gpu()) {
    Tensor result = Tensor::empty({}, DType::f32, logits.device());
    Tensor workspace = Tensor::empty({logits.rows()}, DType::f32, logits.device());
    dispatch_f32_bf16(logits.dtype(), kOp, [&]<class Elem>() {
      on_device(logits.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::cross_entropy_fwd<Backend, Elem>(
            stream, device_rows_of<Elem>(logits), device_data<std::int64_t>(ids), logits.rows(), logits.cols(),
            device_mutable_data<float>(result), device_mutable_data<float>(workspace));
      });
    });
    return result;
  }
  double loss = 0;
  dispatch_f32_f64(logits.dtype(), kOp, [&]<class Elem>() {
    loss = kernels::cross_entropy_fwd<Elem>(
        detail::rows_of<Elem>(logits), ids.data<std::int64_t>(), logits.rows(), logits.cols());
  });
  return Tensor::scalar(loss, logits.dtype());
}

Tensor cross_entropy_bwd(const Tensor& d_loss, const Tensor& logits, const Tensor& ids_any) {
  const Tensor ids = checked_ids(logits, ids_any);
  Tensor d_logits = Tensor::empty(logits.shape(), logits.dtype(), logits.device());
  if (logits.device().is_gpu()) {
    detail::check_parameter(d_loss, {}, logits, kOp, "d_loss");
    dispatch_f32_bf16(logits.dtype(), kOp, [&]<class Elem>() {
      on_device(logits.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::cross_entropy_bwd<Backend, Elem>(
            stream, device_rows_of<Elem>(logits), device_data<std::int64_t>(ids), logits.rows(), logits.cols(),
            device_data<float>(d_loss), device_mutable_rows_of<Elem>(d_logits));
      });
    });
    return d_logits;
  }
  dispatch_f32_f64(logits.dtype(), kOp, [&]<class Elem>() {
    kernels::cross_entropy_bwd<Elem>(
        detail::rows_of<Elem>(logits), ids.data<std::int64_t>(), logits.rows(), logits.cols(), d_loss.item(),
        detail::mutable_rows_of<Elem>(d_logits));
  });
  return d_logits;
}

}  // namespace avid
