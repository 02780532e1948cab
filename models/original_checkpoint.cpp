// models/original_checkpoint.cpp -- names of the research code around our tensors
#include "models/original_checkpoint.h"

#include "tensor/error.h"

namespace avid {
namespace {

void append(NamedTensors& all, const std::string& prefix, const nn::TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) all.emplace_back(prefix + name, tensor);
}

/// The tables that the research code's diffusion object registers.
nn::TensorMap buffers_of(
    const diffusion::Schedule& schedule, diffusion::Objective objective, diffusion::LossWeight loss_weight) {
  const diffusion::ScheduleTables<float>& t = schedule.f32();
  const std::vector<float> weights = schedule.loss_weights(objective, loss_weight);
  const std::pair<const char*, const std::vector<float>*> tables[] = {
      {"betas", &t.beta},
      {"alphas_cumprod", &t.abar},
      {"alphas_cumprod_prev", &t.abar_prev},
      {"sqrt_alphas_cumprod", &t.sqrt_abar},
      {"sqrt_one_minus_alphas_cumprod", &t.sqrt_one_minus_abar},
      {"log_one_minus_alphas_cumprod", &t.log_one_minus_abar},
      {"sqrt_recip_alphas_cumprod", &t.sqrt_recip_abar},
      {"sqrt_recipm1_alphas_cumprod", &t.sqrt_recipm1_abar},
      {"posterior_variance", &t.posterior_variance},
      {"posterior_log_variance_clipped", &t.posterior_log_variance},
      {"posterior_mean_coef1", &t.posterior_c1},
      {"posterior_mean_coef2", &t.posterior_c2},
      {"loss_weight", &weights}};
  nn::TensorMap buffers;
  for (const auto& [name, values] : tables) buffers.emplace(name, Tensor::from_values(*values, {schedule.num_steps()}));
  return buffers;
}

}  // namespace

NamedTensors original_tensors(
    const OriginalParts& parts, const diffusion::Schedule& schedule, diffusion::Objective objective,
    diffusion::LossWeight loss_weight) {
  const nn::TensorMap buffers = buffers_of(schedule, objective, loss_weight);
  NamedTensors all;
  if (parts.kind == NetworkKind::classifier) {
    if (parts.noisy)
      for (const char* name : {"sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"})
        all.emplace_back(std::string("classifier.") + name, buffers.at(name));
    append(all, "classifier.model.", parts.online);
    return all;
  }
  const char* below = parts.kind == NetworkKind::unet         ? "model."
                      : parts.kind == NetworkKind::controlnet ? "control_net."
                                                              : "";
  const auto add_copy = [&](const std::string& copy, bool online) {
    append(all, copy, buffers);
    append(all, copy + "model.", online ? parts.base_online : parts.base_averaged);
    append(all, copy + below, online ? parts.online : parts.averaged);
  };
  add_copy("diffusion_model.", true);
  all.emplace_back("ema.initted", Tensor::from_values(std::vector<std::uint8_t>{parts.ema_started}, Shape{}));
  all.emplace_back("ema.step", Tensor::from_values(std::vector<std::int64_t>{parts.ema_step}, Shape{}));
  add_copy("ema.online_model.", true);
  add_copy("ema.ema_model.", false);
  add_copy("eval_model.", false);
  return all;
}

}  // namespace avid
