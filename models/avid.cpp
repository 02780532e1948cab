// models/avid.cpp -- AVID: adapter, mixing layer, and both with a frozen base as one Denoiser
#include "models/avid.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/mask_mix.h"
#include "autograd/ops/unet_input.h"
#include "kernels/op_timer.h"
#include "models/infer.h"
#include "tensor/ops/moments.h"

namespace avid {
namespace {

std::int64_t mixing_width(AvidVariant variant) { return variant == AvidVariant::no_mask ? 3 : 1; }

}  // namespace

const char* name_of(AvidVariant variant) {
  switch (variant) {
    case AvidVariant::mask: return "mask";
    case AvidVariant::no_mask: return "no_mask";
    case AvidVariant::no_conditioning: return "no_conditioning";
  }
  return "?";
}

AvidConfig make_avid_config(AvidVariant variant, Unet3dConfig adapter) {
  adapter.in_channels = 3 * adapter.cond_frames + (variant == AvidVariant::no_conditioning ? 3 : 6);
  adapter.out_channels = variant == AvidVariant::no_mask ? 3 : 4;
  adapter.validate("avid adapter");
  return {.variant = variant, .adapter = adapter};
}

AvidConfig infer_avid_config(const nn::TensorMap& tensors, std::string_view source, std::int64_t cond_frames) {
  const Shape mixing = find_shape(tensors, "mixture_conv.weight", 5, source);
  check<ShapeError>(
      mixing == Shape({1, 1, 1, 1, 1}) || mixing == Shape({3, 3, 1, 1, 1}),
      "{}: mixture_conv.weight: expected [1,1,1,1,1] (mask) or [3,3,1,1,1] (no mask), got {}", source, mixing);
  const nn::TensorMap adapter = tensors_below(tensors, "adapter.");
  const std::int64_t in_channels = find_shape(adapter, "init_conv.weight", 5, source)[1];
  if (cond_frames < 0) {
    // 9 channels without knowing the base: two frames and no base output, as in every published configuration.
    cond_frames = in_channels == 9 && mixing[0] == 1 ? 2 : in_channels / 3 - 2;
  }
  AvidConfig config{.variant = AvidVariant::mask, .adapter = infer_unet3d_config(adapter, source, cond_frames)};
  if (mixing[0] == 3) {
    config.variant = AvidVariant::no_mask;
  } else if (!config.adapter.sees_base_output()) {
    config.variant = AvidVariant::no_conditioning;
  }
  check<ShapeError>(
      config.adapter == make_avid_config(config.variant, config.adapter).adapter,
      "{}: adapter with {} input and {} output channels does not fit the variant {} with {} conditioning frames",
      source, config.adapter.in_channels, config.adapter.out_channels, name_of(config.variant), cond_frames);
  return config;
}

MaskStats mask_stats(const Tensor& mask) {
  const Moments m = moments(mask, 0.5);
  return {.mean = m.mean, .std = m.std, .min = m.min, .max = m.max};
}

Avid::Avid(const AvidConfig& config)
    : config_(make_avid_config(config.variant, config.adapter)),
      adapter_(config_.adapter),
      mixture_(mixing_width(config.variant), mixing_width(config.variant), {.zero = true}) {
  add_child("adapter", adapter_);
  add_child("mixture_conv", mixture_);
}

AvidOutput Avid::forward(
    const Tensor& x_t, const Tensor& t, const Tensor& cond, const Tensor& actions, const Tensor& base,
    const Tensor& drop, const Probe& probe) const {
  check_shape(base, x_t.shape(), "avid", "base");
  const Var base_output = Var(base);
  const Var input = unet_input(cond, Var(x_t), config_.adapter.sees_base_output() ? base_output : Var());
  AvidOutput out;
  {
    const kernels::ModuleRange range("adapter");
    out.adapter = adapter_.forward(input, t, actions, drop, probe);
  }
  if (config_.variant == AvidVariant::no_mask) {
    out.prediction = mixture_.forward(out.adapter, {}, base_output);
  } else {
    MaskMix mix = mask_mix(base_output, out.adapter, reshape(mixture_.weight(), {1}), mixture_.bias());
    out.prediction = mix.out;
    out.mask = mix.mask;
  }
  if (probe) probe("prediction", out.prediction.value());
  return out;
}

Tensor AvidDenoiser::predict(const diffusion::DenoiserInput& input) {
  const NoGrad no_grad;
  Tensor base;
  {
    const kernels::ModuleRange range("base");
    base = base_.predict({.x_t = input.x_t, .t = input.t, .cond = input.cond, .actions = {}});
  }
  const AvidOutput out = avid_.forward(input.x_t, input.t, input.cond, input.actions, base);
  mask_ = out.mask;
  return out.prediction.value();
}

}  // namespace avid
