// tensor/ops/mask_mix.cpp -- checks and allocation of mask_mix
#include "tensor/ops/mask_mix.h"

#include "kernels/mask_mix.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "mask_mix";

void check_inputs(const Tensor& base, const Tensor& adapter, const Tensor& w) {
  detail::check_float(base, kOp, "base");
  check<ShapeError>(base.rank() >= 1, "{}: base: expected [..,C], got {}", kOp, base.describe());
  detail::check_operand(adapter, base.shape().with_cols(base.cols() + 1), base.dtype(), kOp, "adapter");
  detail::check_same_device(adapter, base, kOp, "adapter");
  detail::check_parameter(w, {1}, base, kOp, "w");
}

MaskMixResult fwd_on_device(const Tensor& base, const Tensor& adapter, const Tensor& w, const Tensor& b) {
  const Device device = base.device();
  MaskMixResult result{
      .out = Tensor::uninitialised(base.shape(), base.dtype(), device),
      .mask = Tensor::uninitialised(base.shape().with_cols(1), DType::f32, device)};
  dispatch_f32_bf16(base.dtype(), kOp, [&]<class Elem>() {
    const kernels::MaskMixDeviceArgs<Elem> args{
        .P = base.rows(),
        .C = base.cols(),
        .base = device_rows_of<Elem>(base),
        .adapter = device_rows_of<Elem>(adapter),
        .w = device_data<float>(w),
        .b = device_data<float>(b),
        .out = device_mutable_rows_of<Elem>(result.out),
        .mask = device_mutable_rows_of<float>(result.mask)};
    on_device(device, kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::mask_mix_fwd<Backend, Elem>(stream, args);
    });
  });
  return result;
}

MaskMixGradients bwd_on_device(
    const Tensor& d_out, const Tensor& base, const Tensor& adapter, const Tensor& w, const Tensor& mask,
    const MaskMixNeeds& needs) {
  const Device device = base.device();
  MaskMixGradients grads;
  if (needs.base) grads.d_base = Tensor::uninitialised(base.shape(), base.dtype(), device);
  if (needs.adapter) grads.d_adapter = Tensor::uninitialised(adapter.shape(), base.dtype(), device);
  if (needs.w) grads.d_w = Tensor::empty({1}, DType::f32, device);
  if (needs.b) grads.d_b = Tensor::empty({1}, DType::f32, device);
  Tensor workspace = Tensor::empty({kernels::mask_mix_bwd_workspace(base.rows())}, DType::f32, device);
  Tensor mask_view = mask;  // a handle; the kernel only reads it
  dispatch_f32_bf16(base.dtype(), kOp, [&]<class Elem>() {
    const kernels::MaskMixDeviceArgs<Elem> args{
        .P = base.rows(),
        .C = base.cols(),
        .base = device_rows_of<Elem>(base),
        .adapter = device_rows_of<Elem>(adapter),
        .w = device_data<float>(w),
        .out = {},
        .mask = device_mutable_rows_of<float>(mask_view)};
    const kernels::MaskMixDeviceGrads<Elem> out{
        .d_out = device_rows_of<Elem>(d_out),
        .d_base = device_mutable_rows_of<Elem>(grads.d_base),
        .d_adapter = device_mutable_rows_of<Elem>(grads.d_adapter),
        .d_w = device_mutable_data<float>(grads.d_w),
        .d_b = device_mutable_data<float>(grads.d_b),
        .workspace = device_mutable_data<float>(workspace)};
    on_device(device, kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::mask_mix_bwd<Backend, Elem>(stream, args, out);
    });
  });
  return grads;
}

}  // namespace

MaskMixResult mask_mix_fwd(const Tensor& base, const Tensor& adapter, const Tensor& w, const Tensor& b) {
  check_inputs(base, adapter, w);
  detail::check_parameter(b, {1}, base, kOp, "b");
  if (base.device().is_gpu()) return fwd_on_device(base, adapter, w, b);
  MaskMixResult result{
      .out = Tensor::empty(base.shape(), base.dtype()), .mask = Tensor::empty(base.shape().with_cols(1), base.dtype())};
  dispatch_f32_f64(base.dtype(), kOp, [&]<class Elem>() {
    kernels::mask_mix_fwd<Elem>(
        {.P = base.rows(),
         .C = base.cols(),
         .base = detail::rows_of<Elem>(base),
         .adapter = detail::rows_of<Elem>(adapter),
         .w = w.data<Elem>()[0],
         .b = b.data<Elem>()[0],
         .out = detail::mutable_rows_of<Elem>(result.out),
         .mask = detail::mutable_rows_of<Elem>(result.mask)});
  });
  return result;
}

MaskMixGradients mask_mix_bwd(
    const Tensor& d_out, const Tensor& base, const Tensor& adapter, const Tensor& w, const Tensor& mask,
    const MaskMixNeeds& needs) {
  check_inputs(base, adapter, w);
  detail::check_like(d_out, base, kOp, "d_out");
  detail::check_parameter(mask, base.shape().with_cols(1), base, kOp, "mask");
  if (base.device().is_gpu()) return bwd_on_device(d_out, base, adapter, w, mask, needs);
  MaskMixGradients grads;
  if (needs.base) grads.d_base = Tensor::empty(base.shape(), base.dtype());
  if (needs.adapter) grads.d_adapter = Tensor::empty(adapter.shape(), base.dtype());
  dispatch_f32_f64(base.dtype(), kOp, [&]<class Elem>() {
    Elem d_w_b[2] = {};
    Tensor mask_view = mask;  // a handle; the kernel only reads it
    kernels::mask_mix_bwd<Elem>(
        {.P = base.rows(),
         .C = base.cols(),
         .base = detail::rows_of<Elem>(base),
         .adapter = detail::rows_of<Elem>(adapter),
         .w = w.data<Elem>()[0],
         .b = 0,
         .out = {},
         .mask = detail::mutable_rows_of<Elem>(mask_view)},
        {.d_out = detail::rows_of<Elem>(d_out),
         .d_base = detail::mutable_rows_of<Elem>(grads.d_base),
         .d_adapter = detail::mutable_rows_of<Elem>(grads.d_adapter),
         .d_w_b = d_w_b});
    if (needs.w) grads.d_w = Tensor::full({1}, static_cast<double>(d_w_b[0]), base.dtype());
    if (needs.b) grads.d_b = Tensor::full({1}, static_cast<double>(d_w_b[1]), base.dtype());
  });
  return grads;
}

}  // namespace avid
