// train/trainee.h -- what is trained, seen by the update: parameters, and a prediction from a noised clip
#pragma once

#include <memory>
#include <string>

#include "autograd/var.h"
#include "diffusion/denoiser.h"
#include "models/avid.h"
#include "models/cost.h"
#include "nn/module.h"
#include "train/config.h"
#include "train/frozen_base.h"

namespace avid::train {

/// What a prediction is made from (a classifier of clean frames gets x_0 as x_t, and t = 0). `drop` [b] i64 or
/// undefined: clips with 1 have their actions withheld.
struct NoisedClips {
  Tensor x_t;      // [b,T,H,W,3]
  Tensor t;        // [b] i64
  Tensor cond;     // [b,K,H,W,3]
  Tensor actions;  // [b,T] i64, or undefined
  Tensor drop;
};

/// A network in training. Frozen parts are reached through a Denoiser and keep no activations.
class Trainee {
 public:
  struct Output {
    Var prediction;  // [b,T,H,W,3], in the objective's space; a classifier's logits [b,T,A]
    Tensor mask;     // [b,T,H,W,1], undefined for networks without one
  };

  virtual ~Trainee() = default;
  virtual nn::Module& module() = 0;
  const nn::Module& module() const { return const_cast<Trainee*>(this)->module(); }
  /// The frozen base's prediction, or undefined when there is no base. Recorded nowhere.
  virtual Tensor base_prediction(const NoisedClips& clips) = 0;
  /// `base` is what base_prediction returned. probe sees every intermediate value by name.
  virtual Output forward(const NoisedClips& clips, const Tensor& base, const Probe& probe = {}) = 0;
  /// Networks that see clean frames are given x_0 at t = 0 instead of x_t.
  virtual bool sees_clean_frames() const { return false; }
  /// A loss of its own instead of the denoising loss: scalar, and the share of right answers if it has answers.
  /// Undefined for denoisers.
  struct OwnLoss {
    Var loss;
    double accuracy = 0;
  };
  virtual OwnLoss own_loss(const Output&, const NoisedClips&) const { return {}; }
  /// Whether that loss compares the clips of a batch with one another, so that no clip has one of its own.
  virtual bool compares_clips() const { return false; }
  /// The whole model for sampling and validation, with the weights it has when asked. Lives as long as the trainee.
  /// GraphError for a classifier, which makes no videos.
  virtual diffusion::Denoiser& denoiser() = 0;
  /// Moves trained and frozen networks to a device and sets the type of their activations (f32 or bf16).
  virtual void place(Device device, DType activations) = 0;
  /// What is forgotten on the way forward, in everything that gradients flow through.
  virtual void set_recompute(nn::Recompute what) { module().set_recompute(what); }
  /// The frozen base alone, or nullptr.
  virtual diffusion::Denoiser* base_denoiser() { return nullptr; }
  /// FLOPs of one forward pass of clips of this size, and what is kept frozen.
  struct Cost {
    double trained = 0, frozen = 0;
  };
  virtual Cost forward_flops(const VideoSize& size) const = 0;
  virtual std::int64_t frozen_parameters() const { return 0; }
  /// Why an update cannot be recorded as a graph of the device: what the host must look at in its middle. Empty when it
  /// can.
  virtual std::string host_work() const { return {}; }
  /// How many actions the trained network knows.
  virtual std::int64_t num_actions() const { return 0; }
  /// One line: "AVID (mask), adapter 0.41M parameters, on a frozen base of 0.39M".
  virtual std::string description() const = 0;
};

/// The U-Net that [model] and [data] describe: predicts a frame, sees K conditioning frames beside the noised one.
Unet3dConfig unet_config(const TrainConfig& config);

/// Builds what the configuration asks for, with initial values from its seed or from base.checkpoint (finetune).
/// Errors   FileError, ShapeError for a checkpoint of another model; ConfigError when base and data do not fit.
std::unique_ptr<Trainee> make_trainee(const TrainConfig& config);

/// AVID on a frozen base, both with values. The base is frozen here.
std::unique_ptr<Trainee> make_avid_trainee(
    std::unique_ptr<Unet3d> base, std::unique_ptr<Avid> avid, diffusion::Objective objective);

}  // namespace avid::train
