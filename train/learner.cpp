// train/learner.cpp -- one optimiser update
#include "train/learner.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops/elementwise.h"
#include "diffusion/parameterisation.h"
#include "diffusion/training_loss.h"
#include "tensor/error.h"
#include "tensor/ops/adam.h"
#include "tensor/ops/elementwise.h"

namespace avid::train {
namespace {

// What the network computes with, where it computes. Actions and drops stay on the host, which looks at them.
TrainBatch sent_to(Device device, TrainBatch batch) {
  for (Tensor* tensor : {&batch.x0, &batch.cond, &batch.noise, &batch.t}) *tensor = tensor->to(device);
  return batch;
}

}  // namespace

Learner::Learner(Trainee& trainee, const LearnerOptions& options)
    : trainee_(trainee),
      options_(options),
      schedule_(options.schedule, options.timesteps),
      device_(trainee.module().device()),
      adam_(trainee.module().parameters(), options.adam),
      ema_(trainee.module().parameters(), options.ema) {}

NoisedClips Learner::noised(const TrainBatch& batch) const {
  if (trainee_.sees_clean_frames())
    return {batch.x0, Tensor::zeros({batch.x0.dim(0)}, DType::i64, device_), batch.cond, batch.actions, {}};
  const Tensor x_t = diffusion::q_sample(schedule_, batch.x0, batch.noise, batch.t);
  return {x_t, batch.t, batch.cond, batch.actions, batch.drop};
}

Trainee::OwnLoss Learner::loss_of(
    const Trainee::Output& out, const NoisedClips& clips, const TrainBatch& batch) const {
  if (Trainee::OwnLoss own = trainee_.own_loss(out, clips); own.loss.defined()) return own;
  return {
      diffusion::training_loss(
          schedule_, options_.objective, options_.loss_weight, out.prediction, batch.x0, batch.noise, batch.t),
      std::numeric_limits<double>::quiet_NaN()};
}

double learning_rate(const LearnerOptions& options, std::int64_t k) {
  const auto part = [](std::int64_t done, std::int64_t length) {
    return length > 0 ? std::min(1.0, static_cast<double>(std::max<std::int64_t>(done, 0)) / static_cast<double>(length))
                      : 1.0;
  };
  return options.lr * part(k, options.warmup) * part(options.updates - k, options.cooldown);
}

UpdateReport Learner::update(std::int64_t k, const std::function<TrainBatch(std::int64_t)>& batch_at) {
  UpdateReport report;
  report.lr = learning_rate(options_, k);
  MaskSummary masks;
  trainee_.module().zero_grad();

  for (std::int64_t i = 0; i < options_.accumulate; ++i) {
    const TrainBatch batch = sent_to(device_, batch_at(i));

    // 1. Noise the clips: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n.
    const NoisedClips clips = noised(batch);

    // 2. The frozen base predicts, keeping nothing; then the trained network, recording what its gradient needs.
    const Tensor base = trainee_.base_prediction(clips);
    Trainee::Output out = trainee_.forward(clips, base);

    // 3. The loss; the running average moves before the backward pass, as in the original.
    const Trainee::OwnLoss measured = loss_of(out, clips, batch);
    Var loss = measured.loss;
    const double value = loss.value().item();
    report.loss += value / static_cast<double>(options_.accumulate);
    report.micro_losses.push_back(value);
    if (out.mask.defined()) masks.add(mask_stats(out.mask));
    if (std::isfinite(measured.accuracy))
      report.accuracy =
          report.accuracy.value_or(0) + measured.accuracy / static_cast<double>(options_.accumulate);
    report.ema_decays.push_back(ema_.before_backward());
    if (!std::isfinite(value)) {
      if (report.problem.empty()) report.problem = find_problem(batch, value);
      continue;  // the counters of later micro-batches go on as if nothing had happened
    }

    // 4. Gradients of the trained parameters, added up over the micro-batches.
    if (options_.accumulate > 1) loss = scale(loss, 1.0 / static_cast<double>(options_.accumulate));
    loss.backward();
  }
  report.mask = masks.result();

  // 5. Clip the global norm and let Adam move the weights.
  AdamOutcome step;
  if (report.problem.empty()) {
    step = adam_.update(report.lr, options_.clip);
    report.grad_norm = step.norm;
  } else {
    report.grad_norm = adam_.grad_norm();
  }
  if (step.first_non_finite >= 0) {
    // Gradients flow from the output to the input: the last parameter in the network's order met it first.
    const auto parameters = trainee_.module().parameters();
    for (auto p = parameters.rbegin(); p != parameters.rend() && report.problem.empty(); ++p)
      if (!all_finite(p->var().grad())) report.problem = fmt::format("gradient of {} is not finite", p->name);
    if (report.problem.empty()) report.problem = "the norm of the gradient overflows";
  }
  report.applied = report.problem.empty();
  if (report.applied) report.clip_scale = step.clip_scale;
  trainee_.module().zero_grad();
  return report;
}

Learner::Evaluation Learner::evaluate(const TrainBatch& host_batch) {
  const NoGrad no_grad;
  const TrainBatch batch = sent_to(device_, host_batch);
  const NoisedClips clips = noised(batch);
  const Trainee::Output out = trainee_.forward(clips, trainee_.base_prediction(clips));
  const Trainee::OwnLoss measured = loss_of(out, clips, batch);
  Evaluation result{measured.loss.value().item(), {}, {}};
  if (std::isfinite(measured.accuracy)) result.accuracy = measured.accuracy;
  if (out.mask.defined()) result.mask = mask_stats(out.mask);
  return result;
}

// Runs the batch again and looks at every value on the way to the loss.
std::string Learner::find_problem(const TrainBatch& batch, double loss) {
  if (!all_finite(batch.x0) || !all_finite(batch.cond)) return "the training clips hold values that are not finite";
  for (const nn::NamedParameter& p : trainee_.module().parameters())
    if (!all_finite(p.var().value())) return fmt::format("weight {} is not finite", p.name);
  const NoGrad no_grad;
  const NoisedClips clips = noised(batch);
  const Tensor base = trainee_.base_prediction(clips);
  if (!all_finite(base)) return "the frozen base's prediction is not finite";
  std::string first;
  trainee_.forward(clips, base, [&](std::string_view name, const Tensor& value) {
    if (first.empty() && !all_finite(value)) first = name;
  });
  if (!first.empty()) return fmt::format("output of {} is not finite", first);
  return fmt::format("loss is {}, although every module's output is finite", loss);
}

void MaskSummary::add(const MaskStats& stats) {
  sum_.mean += stats.mean;
  sum_.std += stats.std;
  sum_.min = std::min(sum_.min, stats.min);
  sum_.max = std::max(sum_.max, stats.max);
  ++count_;
}

std::optional<MaskStats> MaskSummary::result() const {
  if (count_ == 0) return {};
  const auto n = static_cast<double>(count_);
  return MaskStats{sum_.mean / n, sum_.std / n, sum_.min, sum_.max};
}

}  // namespace avid::train
