// models/audit.h -- networks evaluated on tensors from a file, every output under the original's name: `avid forward`
#pragma once

#include <filesystem>
#include <optional>

#include "diffusion/objective.h"
#include "diffusion/schedule.h"
#include "models/controlnet.h"
#include "tensor/io/tensor_file.h"

namespace avid {

/// Which networks to evaluate on what. Paths left empty are absent; `base` goes with at most one other method.
struct AuditRequest {
  std::filesystem::path base;     ///< U-Net; without actions when another network is given
  std::filesystem::path adapter;  ///< AVID adapter and mixing layer
  std::filesystem::path controlnet;
  ControlOrder control_order = ControlOrder::reversed;
  std::filesystem::path classifier;    ///< alone
  std::filesystem::path action_model;  ///< with base and poe and / or action_cfg
  std::optional<double> poe;           ///< lambda of the product of experts
  std::optional<double> action_cfg;    ///< lambda of action guidance
  std::filesystem::path input;  ///< x0, noise, x_t, t, actions, cond: those that the method needs; videos [B,C,T,H,W]
  diffusion::ScheduleKind schedule = diffusion::ScheduleKind::sigmoid;
  std::int64_t num_steps = 200;
  diffusion::Objective objective = diffusion::Objective::pred_x0;
  bool grads = false;              ///< also grad.<name> of the loss for every trained tensor
  DType dtype = DType::f32;        ///< of weights and inputs: f32 or f64
  DType activations = DType::f32;  ///< bf16 only with f32 weights; otherwise ignored
  Device device = {};              ///< where the networks run; outputs are on the host
};

/// Throws UsageError when the request names no network, or ones that do not go together.
void check_request(const AuditRequest& request);

/// All outputs, in the layout and under the names of tests/golden/pixel/README.md:
///   base alone         prediction (with actions when the input has them), prediction_no_action
///   base + adapter     base, adapter (raw), mask and mask_stats (where there is one), prediction
///   base + controlnet  base, control.0 ..., prediction
///   classifier         logits_clean, logits_noisy, loss_clean, loss_noisy, guidance_logprob, guidance_gradient
///   action model       poe_pred_noise, poe_pred_x0, poe_posterior_mean; cfg_...
/// The first three also give loss (of the objective, SNR-weighted) and loss_pred_noise, loss_pred_x0, loss_pred_v (the
/// same output read under another objective) if the input has x0 and noise. Scalars are f64 of rank 0.
/// x_t is made from x0 and noise if the input has none, and in f64 also if its x_t is just that rounded to f32. Throws
/// FileError naming the tensor that the input lacks.
NamedTensors audit(const AuditRequest& request);

}  // namespace avid
