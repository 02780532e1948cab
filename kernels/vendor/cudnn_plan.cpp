// kernels/vendor/cudnn_plan.cpp -- the problems as cuDNN's operations
#include "kernels/vendor/cudnn_plan.h"

#if AVID_HAVE_CUDA && AVID_HAVE_CUDNN

#include "kernels/vendor/cudnn_graph.h"

namespace avid::kernels::vendor {
namespace {

constexpr std::int64_t kX = 0, kW = 1, kY = 2;  // tensors of a convolution

Descriptor conv_tensor(std::int64_t index, const Layout& layout, ElementType type) {
  return tensor_descriptor(
      index, layout.dims, layout.strides, type == ElementType::f32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16);
}

Descriptor operation(const ConvProblem& p) {
  Descriptor convolution(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  convolution.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION)
      .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{3})
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, std::array<std::int64_t, 3>{1, 1, 1})
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, p.stride)
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, p.padding)
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, p.padding)
      .finalize("convolution");
  struct Names {
    cudnnBackendDescriptorType_t kind;
    cudnnBackendAttributeName_t alpha, beta, convolution, w, x, y;
  };
  constexpr Names kNames[] = {
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}};
  const Names& names = kNames[static_cast<std::size_t>(p.pass)];
  Descriptor d(names.kind);
  d.set(names.alpha, 1.0f)
      .set(names.beta, 0.0f)
      .set(names.convolution, convolution)
      .set(names.w, conv_tensor(kW, p.w, p.type))
      .set(names.x, conv_tensor(kX, p.x, p.type))
      .set(names.y, conv_tensor(kY, p.y, p.type))
      .finalize("operation");
  return d;
}

/// cuDNN's "channels" are our columns: [rows, C, 1, 1].
Descriptor norm_tensor_of(const NormProblem& p, norm_tensor::Name name) {
  using Extents = std::array<std::int64_t, 4>;
  const cudnnDataType_t type = p.bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
  const Extents across{p.C, 1, p.C, p.C}, ones{1, 1, 1, 1};
  switch (name) {
    case norm_tensor::x:
    case norm_tensor::out:
    case norm_tensor::d_out:
    case norm_tensor::d_x: return tensor_descriptor(name, Extents{p.num_rows, p.C, 1, 1}, across, type);
    case norm_tensor::mean:
    case norm_tensor::inv_deviation:
      return tensor_descriptor(name, Extents{p.num_rows, 1, 1, 1}, ones, CUDNN_DATA_FLOAT);
    case norm_tensor::eps: return tensor_descriptor(name, ones, ones, CUDNN_DATA_FLOAT, Place::host);
    default: return tensor_descriptor(name, Extents{1, p.C, 1, 1}, across, CUDNN_DATA_FLOAT);
  }
}

Descriptor operation(const NormProblem& p) {
  const auto tensor = [&](norm_tensor::Name name) { return norm_tensor_of(p, name); };
  if (p.pass == NormPass::fwd) {
    Descriptor d(CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR);
    d.set(CUDNN_ATTR_OPERATION_NORM_FWD_MODE, CUDNN_LAYER_NORM)
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, CUDNN_NORM_FWD_TRAINING)
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, tensor(norm_tensor::x))
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, tensor(norm_tensor::mean))
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, tensor(norm_tensor::inv_deviation))
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, tensor(norm_tensor::gamma))
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, tensor(norm_tensor::eps))
        .set(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, tensor(norm_tensor::out));
    if (p.has_beta) d.set(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, tensor(norm_tensor::beta));
    d.finalize("operation");
    return d;
  }
  Descriptor d(CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR);
  d.set(CUDNN_ATTR_OPERATION_NORM_BWD_MODE, CUDNN_LAYER_NORM)
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, tensor(norm_tensor::x))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, tensor(norm_tensor::mean))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC, tensor(norm_tensor::inv_deviation))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, tensor(norm_tensor::d_out))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, tensor(norm_tensor::gamma))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, tensor(norm_tensor::d_gamma))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, tensor(norm_tensor::d_beta))
      .set(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, tensor(norm_tensor::d_x))
      .finalize("operation");
  return d;
}

}  // namespace

std::vector<CudnnPlan> cudnn_plans(const ConvProblem& problem, std::size_t most, const std::string& device_json) {
  return in_words_of(Family::conv, [&] {
    const Descriptor only = operation(problem);
    return plans_of(Family::conv, std::span(&only, 1), problem.type, most, device_json);
  });
}

std::vector<CudnnPlan> cudnn_plans(const AttentionProblem& problem, std::size_t most, const std::string& device_json) {
  return in_words_of(Family::attention, [&] {
    const std::vector<Descriptor> steps = operations_of(attention_graph(problem));
    return plans_of(Family::attention, steps, ElementType::bf16, most, device_json);
  });
}

std::vector<CudnnPlan> cudnn_plans(const NormProblem& problem, std::size_t most, const std::string& device_json) {
  return in_words_of(Family::norm, [&] {
    const Descriptor only = operation(problem);
    const ElementType type = problem.bf16 ? ElementType::bf16 : ElementType::f32;
    return plans_of(Family::norm, std::span(&only, 1), type, most, device_json);
  });
}

}  // namespace avid::kernels::vendor

#elif AVID_HAVE_CUDA

namespace avid::kernels::vendor {
namespace {

[[noreturn]] void lacks_cudnn(Family family) {
  const std::string name = name_of(family);
  throw LibraryError(name + ": this build lacks cuDNN: its headers were not found | use --" + name + " native");
}

}  // namespace

std::vector<CudnnPlan> cudnn_plans(const ConvProblem&, std::size_t, const std::string&) { lacks_cudnn(Family::conv); }
std::vector<CudnnPlan> cudnn_plans(const AttentionProblem&, std::size_t, const std::string&) {
  lacks_cudnn(Family::attention);
}
std::vector<CudnnPlan> cudnn_plans(const NormProblem&, std::size_t, const std::string&) { lacks_cudnn(Family::norm); }

}  // namespace avid::kernels::vendor

#endif
