// models/original_checkpoint.h -- trained networks as a checkpoint of the research code holds them (pixel.md 7.3)
//
// The model four times: `diffusion_model.` (online), `ema.online_model.` (the same), `ema.ema_model.` (averaged),
// `eval_model.` (the same). Below each: the U-Net under `model.`, an adapter under `adapter.` with `mixture_conv.`, a
// ControlNet under `control_net.`, and the schedule's tables. A classifier stands once, under `classifier.model.`.
#pragma once

#include "diffusion/schedule.h"
#include "models/checkpoint.h"

namespace avid {

/// What a checkpoint of the research code is made of.
struct OriginalParts {
  NetworkKind kind = NetworkKind::unet;
  nn::TensorMap online, averaged;  ///< the trained network; names as in NetworkTensors
  /// The frozen U-Net below an adapter or a ControlNet; empty: left out. The research code's own differ by a little.
  nn::TensorMap base_online, base_averaged;
  std::int64_t ema_step = 0;  ///< micro-batches that the average has seen
  bool ema_started = true;
  bool noisy = false;  ///< of a classifier: it has two tables of the schedule
};

/// All tensors under their names in the research code, in its order; copies share memory where their values are one.
/// `ema.initted` is a u8 that means a truth value.
NamedTensors original_tensors(
    const OriginalParts& parts, const diffusion::Schedule& schedule, diffusion::Objective objective,
    diffusion::LossWeight loss_weight);

}  // namespace avid
