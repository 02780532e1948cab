// train/learner.h -- one optimiser update, from clips to new weights. Start reading here: Learner::update
//
// Nothing in this file knows of files, folders, clocks or data sets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "diffusion/schedule.h"
#include "models/avid.h"
#include "tensor/device_graph.h"
#include "tensor/memory_watch.h"
#include "train/clip_losses.h"
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
  double clip = 1.0;  // largest global gradient norm
  AdamOptions adam = {};
  EmaOptions ema = {};
  /// On a device: record an update and repeat it (docs/devices.md). `automatic` goes on without when recording fails,
  /// and says so in the report.
  UseGraph graph = UseGraph::off;
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
  std::optional<MaskStats> mask;   // mean of mean and std, least min, largest max over the micro-batches
  std::optional<double> accuracy;  // of a classifier, mean over the micro-batches
  bool applied = true;
  std::string problem;  // why not: names the first module with a value that is not finite
  std::vector<double> micro_losses, ema_decays;
  bool repeated = false;  // a recorded update was repeated
  std::string note;       // why updates are no longer recorded
};

/// On the CPU the host looks at every loss before it goes on. On a device the whole update is queued and the host reads
/// losses, mask and outcome once at its end; whether a step is taken is decided on the device. That also makes the
/// update recordable: with options.graph the first one runs as it is, the second is recorded, and then that is
/// repeated. What changes from update to update lies at fixed places in device memory: clips, noise and times in slots
/// of the learner, rate and decays in Adam's numbers.
class Learner {
 public:
  Learner(Trainee& trainee, const LearnerOptions& options);

  /// Update number k (from 0): `batch(i)` gives micro-batch i. Either all weights and moments change or none.
  /// `meanwhile` is called once a device has all of its work, for what the host can do until it is done.
  UpdateReport update(
      std::int64_t k, const std::function<TrainBatch(std::int64_t i)>& batch,
      const std::function<void()>& meanwhile = {});

  /// The loss and mask of a batch without learning, with the weights as they are.
  ClipLosses evaluate(const TrainBatch& batch);

  /// Runs work that comes between updates. Where it needs memory that a recorded update keeps, the recording goes, the
  /// work begins again, the next report says so, once for each `what`, and updates are recorded anew.
  void beside_recording(const std::string& what, const std::function<void()>& work);

  Trainee& trainee() { return trainee_; }
  Adam& adam() { return adam_; }
  Ema& ema() { return ema_; }
  const diffusion::Schedule& schedule() const { return schedule_; }
  /// The recorded update, if there is one.
  const DeviceGraph& graph() const { return graph_; }

 private:
  using Batches = std::function<TrainBatch(std::int64_t i)>;
  struct Pass {
    Tensor mask;
    Trainee::OwnLoss measured;
  };
  Pass forward(const TrainBatch& batch);
  void update_on_host(const Batches& batch_at, UpdateReport& report);
  void update_on_device(const Batches& batch_at, const std::function<void()>& meanwhile, UpdateReport& report);
  const TrainBatch& into_slot(std::int64_t i, const TrainBatch& batch);
  void queue(const std::vector<TrainBatch>& batches);
  void repeat(const std::vector<TrainBatch>& batches, UpdateReport& report);
  void read_outcome(const std::vector<TrainBatch>& batches, UpdateReport& report);
  void forget_graph();
  ClipLosses evaluate_now(const TrainBatch& batch);
  void name_bad_gradient(UpdateReport& report) const;
  NoisedClips noised(const TrainBatch& batch) const;
  Trainee::OwnLoss loss_of(const Trainee::Output& out, const NoisedClips& clips, const TrainBatch& batch) const;
  std::string find_problem(const TrainBatch& batch, double loss);
  std::string problem_of_outputs(const TrainBatch& batch);

  Trainee& trainee_;
  LearnerOptions options_;
  diffusion::Schedule schedule_;
  Device device_;  // of the network; batches are sent there
  Adam adam_;
  Ema ema_;

  // What an update leaves on a device for the host to read.
  Tensor losses_;              // [accumulate]
  std::vector<Tensor> masks_;  // moments_partials() of every mask
  std::int64_t mask_numel_ = 0;
  double accuracy_ = 0;  // NaN for networks without one; mean over the micro-batches

  std::vector<TrainBatch> slots_;
  DeviceGraph graph_;
  std::vector<Tensor> graph_grads_;           // where a repeated update leaves the gradients
  std::vector<const void*> graph_addresses_;  // of the state that it changes
  bool warm_ = false;                         // an update of this shape has run
  std::unique_ptr<MemoryWatch> watch_;        // over it
  std::set<std::string> made_room_for_;       // what has cost a recording
  std::string pending_note_;                  // of the next report
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
