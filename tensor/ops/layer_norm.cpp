// tensor/ops/layer_norm.cpp -- checks and allocation of layer_norm
#include "tensor/ops/layer_norm.h"

#include "kernels/layer_norm.h"
#include "kernels/vendor/norm_problem.h"
#include "tensor/ops/library_route.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "layer_norm";

void check_inputs(const Tensor& x, const Tensor& gamma) {
  detail::check_float(x, kOp, "x");
  check<ShapeError>(x.rank() >= 1 && x.cols() > 0, "{}: x: expected [...,C] with C > 0, got {}", kOp, x.describe());
  detail::check_parameter(gamma, {x.cols()}, x, kOp, "gamma");
}

using kernels::vendor::NormPass;

/// ours(), or cuDNN's as --norm says.
template <class Elem, class Ours, class Library>
void layer_norm_either(NormPass pass, const kernels::Stream& stream, const Tensor& x, Ours&& ours, Library&& library) {
  const auto what = [&] {
    return kernels::vendor::describe(kernels::vendor::NormProblem{
        .pass = pass, .bf16 = !std::is_same_v<Elem, float>, .num_rows = x.rows(), .C = x.cols()});
  };
  detail::run_either(detail::Family::norm, stream, what, ours, library);
}

Tensor fwd_on_device(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  Tensor out = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    const kernels::LayerNormDeviceArgs<Elem> args{
        .num_rows = x.rows(),
        .C = x.cols(),
        .x = device_rows_of<Elem>(x),
        .gamma = device_data<float>(gamma),
        .beta = device_data<float>(beta),
        .eps = static_cast<float>(eps),
        .out = device_mutable_rows_of<Elem>(out)};
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      const auto ours = [&] { kernels::layer_norm_fwd<Backend, Elem>(stream, args); };
      if constexpr (detail::kHasLibraries<Backend>) {
        if (x.numel() > 0)
          return layer_norm_either<Elem>(NormPass::fwd, stream, x, ours, [&] {
            Tensor workspace = device_workspace(kernels::vendor::library_layer_norm_workspace_bytes<Elem>(args), x);
            kernels::vendor::library_layer_norm_fwd<Elem>(stream, args, device_mutable_data<float>(workspace));
          });
      }
      ours();
    });
  });
  return out;
}

LayerNormGradients bwd_on_device(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, double eps, const LayerNormNeeds& needs) {
  LayerNormGradients grads;
  if (needs.x) grads.d_x = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), DType::f32, x.device());
  if (needs.beta) grads.d_beta = Tensor::empty(gamma.shape(), DType::f32, x.device());
  Tensor own = Tensor::empty({kernels::layer_norm_bwd_workspace(x.rows(), x.cols())}, DType::f32, x.device());
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    const kernels::LayerNormDeviceArgs<Elem> args{
        .num_rows = x.rows(),
        .C = x.cols(),
        .x = device_rows_of<Elem>(x),
        .gamma = device_data<float>(gamma),
        .beta = nullptr,
        .eps = static_cast<float>(eps),
        .out = {}};
    const kernels::LayerNormDeviceGrads<Elem> out{
        .d_out = device_rows_of<Elem>(d_out),
        .d_residual = {},
        .d_x = device_mutable_rows_of<Elem>(grads.d_x),
        .d_gamma = device_mutable_data<float>(grads.d_gamma),
        .d_beta = device_mutable_data<float>(grads.d_beta),
        .workspace = device_mutable_data<float>(own)};
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      const auto ours = [&] { kernels::layer_norm_bwd<Backend, Elem>(stream, args, out); };
      if constexpr (detail::kHasLibraries<Backend>) {
        if (x.numel() > 0)
          return layer_norm_either<Elem>(NormPass::bwd, stream, x, ours, [&] {
            Tensor workspace =
                device_workspace(kernels::vendor::library_layer_norm_workspace_bytes<Elem>(args, out), x);
            kernels::vendor::library_layer_norm_bwd<Elem>(stream, args, out, device_mutable_data<float>(workspace));
          });
      }
      ours();
    });
  });
  return grads;
}

}  // namespace

Tensor layer_norm_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  check_inputs(x, gamma);
  if (beta.defined()) detail::check_parameter(beta, {x.cols()}, x, kOp, "beta");
  if (x.device().is_gpu()) return fwd_on_device(detail::usual_pitch(x), gamma, beta, eps);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::layer_norm_fwd<Elem>(
        {.num_rows = x.rows(),
         .C = x.cols(),
         .x = detail::rows_of<Elem>(x),
         .gamma = gamma.data<Elem>(),
         .beta = detail::data_or_null<Elem>(beta),
         .eps = eps,
         .out = detail::mutable_rows_of<Elem>(out)});
  });
  return out;
}

LayerNormGradients layer_norm_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, double eps, const LayerNormNeeds& needs) {
  check_inputs(x, gamma);
  detail::check_like(d_out, x, kOp, "d_out");
  if (x.device().is_gpu()) return bwd_on_device(detail::usual_pitch(d_out), detail::usual_pitch(x), gamma, eps, needs);
  LayerNormGradients grads;
  if (needs.x) grads.d_x = Tensor::empty(x.shape(), x.dtype());
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), x.dtype());
  if (needs.beta) grads.d_beta = Tensor::empty(gamma.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::layer_norm_bwd<Elem>(
        {.num_rows = x.rows(),
         .C = x.cols(),
         .x = detail::rows_of<Elem>(x),
         .gamma = gamma.data<Elem>(),
         .beta = nullptr,
         .eps = eps,
         .out = {}},
        {.d_out = detail::rows_of<Elem>(d_out),
         .d_x = detail::mutable_rows_of<Elem>(grads.d_x),
         .d_gamma = detail::mutable_data_or_null<Elem>(grads.d_gamma),
         .d_beta = detail::mutable_data_or_null<Elem>(grads.d_beta)});
  });
  return grads;
}

}  // namespace avid
