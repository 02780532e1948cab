// train/learner.h -- one optimiser update, from clips to new weights. Start reading here: Learner::update in learner.cpp.
//
// Nothing in this file knows of files, folders, clocks or data sets.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "diffusion/schedule.h"
#include "models/avid.h"
#include "train/ema.h"
#include "train/optimizer.h"
#include "train/trainee.h"

namespace avid::train {

/// Clips of one micro-batch, with everything random already drawn.
struct TrainBatch {
  Tensor x0;       // [b,T,H,W,3] in [-1,1]
  Tensor cond;     // [b,K,H,W,3] in [-1,1]
  Tensor actions;  // [b,T] i64, or undefined
  Tensor noise;    // [b,T,H,W,3] N(0,1)
  Tensor t;        // [b] i64
  Tensor drop;     // [b] i64, or undefined
};

struct LearnerOptions {
  diffusion::ScheduleKind schedule = diffusion::ScheduleKind::sigmoid;
  std::int64_t timesteps = 200;
  diffusion::Objective objective = diffusion::Objective::pred_x0;
  diffusion::LossWeight loss_weight = diffusion::LossWeight::snr;
  std::int64_t accumulate = 1;
  double lr = 1e-4;
  std::int64_t warmup = 1000;  // see learning_rate
  std::int64_t cooldown = 0, updates = 0;
  double clip = 1.0;           // largest global gradient norm
  AdamOptions adam = {};
  EmaOptions ema = {};
};

/// The rate of update k (from 0): lr * min(1, k / warmup) * min(1, (updates - k) / cooldown), a factor absent where its
/// length is 0. The original only warms up; short runs gain from settling down at the end.
double learning_rate(const LearnerOptions& options, std::int64_t k);

/// What one update did.
struct UpdateReport {
  double loss = 0;       // mean over the micro-batches, not divided by accumulate
  double grad_norm = 0;  // of the accumulated gradient, before clipping
  double clip_scale = 1;
  double lr = 0;
  std::optional<MaskStats> mask;  // mean of mean and std, least min, largest max over the micro-batches
  std::optional<double> accuracy;  // of a classifier, mean over the micro-batches
  bool applied = true;
  std::string problem;  // why not: names the first module with a value that is not finite
  std::vector<double> micro_losses, ema_decays;
};

class Learner {
 public:
  Learner(Trainee& trainee, const LearnerOptions& options);

  /// Update number k (from 0): `batch(i)` gives micro-batch i. Either all weights and moments change or none.
  UpdateReport update(std::int64_t k, const std::function<TrainBatch(std::int64_t i)>& batch);

  /// The loss and mask of a batch without learning, with the weights as they are.
  struct Evaluation {
    double loss = 0;
    std::optional<MaskStats> mask;
    std::optional<double> accuracy;
  };
  Evaluation evaluate(const TrainBatch& batch);

  Trainee& trainee() { return trainee_; }
  Adam& adam() { return adam_; }
  Ema& ema() { return ema_; }
  const diffusion::Schedule& schedule() const { return schedule_; }

 private:
  NoisedClips noised(const TrainBatch& batch) const;
  Trainee::OwnLoss loss_of(const Trainee::Output& out, const NoisedClips& clips, const TrainBatch& batch) const;
  std::string find_problem(const TrainBatch& batch, double loss);

  Trainee& trainee_;
  LearnerOptions options_;
  diffusion::Schedule schedule_;
  Device device_;  // of the network; batches are sent there
  Adam adam_;
  Ema ema_;
};

/// Collects mask statistics of several batches: mean of mean and std, least min, largest max.
class MaskSummary {
 public:
  void add(const MaskStats& stats);
  std::optional<MaskStats> result() const;

 private:
  MaskStats sum_{0, 0, 1, 0};
  std::int64_t count_ = 0;
};

}  // namespace avid::train
