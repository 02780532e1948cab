// train/learner.cpp -- one optimiser update
#include "train/learner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "autograd/ops/elementwise.h"
#include "diffusion/parameterisation.h"
#include "diffusion/training_loss.h"
#include "tensor/error.h"
#include "tensor/ops/adam.h"
#include "tensor/ops/elementwise.h"
#include "tensor/ops/moments.h"

namespace avid::train {
namespace {

MaskStats stats_of(const Moments& m) { return {.mean = m.mean, .std = m.std, .min = m.min, .max = m.max}; }

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
      ema_(trainee.module().parameters(), options.ema) {
  const bool must = options.graph == UseGraph::on;
  const std::string reason = device_.is_gpu() ? trainee.host_work() : "the CPU queues nothing";
  check<ConfigError>(
      !must || reason.empty(), "config: train.graph: expected auto or off, got on | {}, so there is nothing to record",
      reason);
  if (!reason.empty()) options_.graph = UseGraph::off;
}

NoisedClips Learner::noised(const TrainBatch& batch) const {
  if (trainee_.sees_clean_frames())
    return {batch.x0, Tensor::zeros({batch.x0.dim(0)}, DType::i64, device_), batch.cond, batch.actions, {}};
  const Tensor x_t = diffusion::q_sample(schedule_, batch.x0, batch.noise, batch.t);
  return {x_t, batch.t, batch.cond, batch.actions, batch.drop};
}

Trainee::OwnLoss Learner::loss_of(const Trainee::Output& out, const NoisedClips& clips, const TrainBatch& batch) const {
  if (Trainee::OwnLoss own = trainee_.own_loss(out, clips); own.loss.defined()) return own;
  return {
      diffusion::training_loss(
          schedule_, options_.objective, options_.loss_weight, out.prediction, batch.x0, batch.noise, batch.t),
      std::numeric_limits<double>::quiet_NaN()};
}

double learning_rate(const LearnerOptions& options, std::int64_t k) {
  const auto part = [](std::int64_t done, std::int64_t length) {
    return length > 0
               ? std::min(1.0, static_cast<double>(std::max<std::int64_t>(done, 0)) / static_cast<double>(length))
               : 1.0;
  };
  return options.lr * part(k, options.warmup) * part(options.updates - k, options.cooldown);
}

Learner::Pass Learner::forward(const TrainBatch& batch) {
  // 1. Noise the clips: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n.
  const NoisedClips clips = noised(batch);

  // 2. The frozen base predicts, keeping nothing; then the trained network, recording what its gradient needs.
  const Tensor base = trainee_.base_prediction(clips);
  const Trainee::Output out = trainee_.forward(clips, base);

  // 3. The loss.
  return {out.mask, loss_of(out, clips, batch)};
}

UpdateReport Learner::update(std::int64_t k, const Batches& batch_at, const std::function<void()>& meanwhile) {
  UpdateReport report;
  report.lr = learning_rate(options_, k);
  report.note = std::exchange(pending_note_, {});
  trainee_.module().zero_grad();
  if (device_.is_gpu()) {
    update_on_device(batch_at, meanwhile, report);
  } else {
    update_on_host(batch_at, report);
  }
  report.applied = report.problem.empty();
  trainee_.module().zero_grad();
  return report;
}

void Learner::update_on_host(const Batches& batch_at, UpdateReport& report) {
  const auto parts = static_cast<double>(options_.accumulate);
  MaskSummary masks;
  for (std::int64_t i = 0; i < options_.accumulate; ++i) {
    const TrainBatch batch = batch_at(i);
    const Pass pass = forward(batch);
    const double value = pass.measured.loss.value().item();
    report.loss += value / parts;
    report.micro_losses.push_back(value);
    if (pass.mask.defined()) masks.add(mask_stats(pass.mask));
    if (std::isfinite(pass.measured.accuracy))
      report.accuracy = report.accuracy.value_or(0) + pass.measured.accuracy / parts;
    report.ema_decays.push_back(ema_.next_decay());
    if (!std::isfinite(value)) {
      if (report.problem.empty()) report.problem = find_problem(batch, value);
      continue;  // the counters of later micro-batches go on as if nothing had happened
    }

    // 4. Gradients of the trained parameters, added up over the micro-batches.
    (options_.accumulate > 1 ? scale(pass.measured.loss, 1 / parts) : pass.measured.loss).backward();
  }
  report.mask = masks.result();

  // 5. The average moves; clip the global norm and let Adam move the weights.
  if (!report.problem.empty()) {
    ema_.move(report.ema_decays);
    report.grad_norm = adam_.grad_norm();
    return;
  }
  adam_.prepare(report.lr, report.ema_decays);
  adam_.step(options_.clip, ema_.shadows(), {});
  const AdamOutcome step = adam_.outcome();
  report.grad_norm = step.norm;
  if (step.first_non_finite >= 0)
    name_bad_gradient(report);
  else
    report.clip_scale = step.clip_scale;
}

// The same in another order of looking: nothing is read before everything is queued.
void Learner::update_on_device(const Batches& batch_at, const std::function<void()>& meanwhile, UpdateReport& report) {
  const bool graph = options_.graph != UseGraph::off;
  std::vector<TrainBatch> batches;
  for (std::int64_t i = 0; i < options_.accumulate; ++i) {
    batches.push_back(graph ? into_slot(i, batch_at(i)) : sent_to(device_, batch_at(i)));
    report.ema_decays.push_back(ema_.next_decay());
  }
  if (!losses_.defined()) losses_ = Tensor::zeros({options_.accumulate}, DType::f32, device_);
  adam_.prepare(report.lr, report.ema_decays);
  if (graph) {
    repeat(batches, report);
  } else {
    queue(batches);
  }
  if (meanwhile) meanwhile();
  read_outcome(batches, report);
}

// Everything that an update does on the device. Reads nothing back, and no number of this update comes from the host:
// it is what a graph records.
void Learner::queue(const std::vector<TrainBatch>& batches) {
  const auto parts = static_cast<double>(options_.accumulate);
  masks_.clear();
  accuracy_ = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const Pass pass = forward(batches[i]);
    const auto at = static_cast<std::int64_t>(i);
    losses_.slice(at, at + 1).copy_from(pass.measured.loss.value().reshape({1}));
    if (pass.mask.defined()) {
      masks_.push_back(moments_partials(pass.mask, 0.5));
      mask_numel_ = pass.mask.numel();
    }
    accuracy_ += pass.measured.accuracy / parts;
    (options_.accumulate > 1 ? scale(pass.measured.loss, 1 / parts) : pass.measured.loss).backward();
  }
  adam_.step(options_.clip, ema_.shadows(), losses_);
}

void Learner::read_outcome(const std::vector<TrainBatch>& batches, UpdateReport& report) {
  report.micro_losses = losses_.to_doubles();
  for (const double value : report.micro_losses) report.loss += value / static_cast<double>(options_.accumulate);
  MaskSummary masks;
  for (const Tensor& partials : masks_) masks.add(stats_of(moments_of_partials(partials, mask_numel_, 0.5)));
  report.mask = masks.result();
  if (std::isfinite(accuracy_)) report.accuracy = accuracy_;
  const AdamOutcome step = adam_.outcome();
  report.grad_norm = step.norm;
  if (step.first_non_finite < 0) {
    report.clip_scale = step.clip_scale;
    return;
  }
  for (std::size_t i = 0; i < batches.size() && report.problem.empty(); ++i) {
    if (std::isfinite(report.micro_losses[i])) continue;
    trainee_.module().zero_grad();  // those of a recorded update lie in its memory, which may be wanted
    report.problem = find_problem(batches[i], report.micro_losses[i]);
  }
  if (report.problem.empty()) name_bad_gradient(report);
}

// Gradients flow from the output to the input: the last parameter in the network's order met it first.
void Learner::name_bad_gradient(UpdateReport& report) const {
  const auto parameters = trainee_.module().parameters();
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const Tensor& grad = report.repeated ? graph_grads_[i] : parameters[i].var().grad();
    if (all_finite(grad)) continue;
    report.problem = fmt::format("gradient of {} is not finite", parameters[i].name);
    return;
  }
  report.problem = "the norm of the gradient overflows";
}

// Inputs at the places where the recorded update looks for them. Actions become rows of the table here: a network that
// gets them on the host sends them itself, which a recording would take for constants.
const TrainBatch& Learner::into_slot(std::int64_t i, const TrainBatch& batch) {
  slots_.resize(std::max(slots_.size(), static_cast<std::size_t>(i) + 1));
  TrainBatch& slot = slots_[static_cast<std::size_t>(i)];
  const auto put = [&](Tensor& to, const Tensor& from) {
    if (!from.defined()) return;
    if (!to.defined() || to.shape() != from.shape()) {
      forget_graph();
      to = Tensor::empty(from.shape(), from.dtype(), device_);
    }
    to.copy_from(from);
  };
  put(slot.x0, batch.x0);
  put(slot.cond, batch.cond);
  put(slot.noise, batch.noise);
  put(slot.t, batch.t);
  if (batch.actions.defined()) put(slot.actions, action_rows(batch.actions, batch.drop, trainee_.num_actions()));
  return slot;
}

void Learner::forget_graph() {
  graph_ = {};
  graph_grads_.clear();
  masks_.clear();
  warm_ = false;
  watch_.reset();
}

void Learner::repeat(const std::vector<TrainBatch>& batches, UpdateReport& report) {
  const auto parameters = trainee_.module().parameters();
  // The recorded work reads bf16 copies of weights that its Adam writes: those of the first time are made here.
  adam_.refresh_copies();
  if (adam_.addresses(ema_.shadows()) != graph_addresses_) forget_graph();
  if (!warm_) {
    watch_ = std::make_unique<MemoryWatch>(device_);
    queue(batches);
    watch_->end_of_work();
    warm_ = true;
    graph_addresses_ = adam_.addresses(ema_.shadows());  // now there are copies
    return;
  }
  if (!graph_.defined()) {
    try {
      const auto watch = std::move(watch_);
      graph_ = DeviceGraph::record(
          device_, [&] { queue(batches); }, watch.get());
    } catch (const Error& error) {
      if (options_.graph == UseGraph::on) throw;
      report.note = fmt::format("updates are not recorded as a graph, which only costs time: {}", error.what());
      options_.graph = UseGraph::off;
      trainee_.module().zero_grad();
      // Copies that were to be made in it hold nothing.
      for (const nn::NamedParameter& p : parameters) Var(p.var()).mutable_value();
      return queue(batches);
    }
    for (const nn::NamedParameter& p : parameters) graph_grads_.push_back(p.var().grad());
  }
  graph_.replay();
  report.repeated = true;
  adam_.note_repeated();
}

ClipLosses Learner::evaluate(const TrainBatch& batch) {
  ClipLosses result;
  beside_recording("validation", [&] { result = evaluate_now(batch); });
  return result;
}

void Learner::beside_recording(const std::string& what, const std::function<void()>& work) {
  try {
    return work();
  } catch (const OutOfMemoryError&) {
    if (!graph_.defined()) throw;
  }
  forget_graph();
  work();
  if (made_room_for_.insert(what).second)
    pending_note_ = fmt::format(
        "{} does not fit into memory beside the recorded update, which is recorded again after each: that only costs "
        "time",
        what);
}

ClipLosses Learner::evaluate_now(const TrainBatch& host_batch) {
  const NoGrad no_grad;
  const TrainBatch batch = sent_to(device_, host_batch);
  const NoisedClips clips = noised(batch);
  const Trainee::Output out = trainee_.forward(clips, trainee_.base_prediction(clips));
  const std::int64_t b = batch.x0.dim(0);
  ClipLosses result;
  if (trainee_.compares_clips()) {
    const Trainee::OwnLoss measured = loss_of(out, clips, batch);
    result.add(b, measured.loss.value().item(), measured.accuracy);
    return result;
  }
  // Clip by clip: sums over several would depend on how many there are. A device is read once.
  Tensor losses;
  std::vector<double> accuracies;
  for (std::int64_t i = 0; i < b; ++i) {
    const auto one = [&](const Tensor& all) { return all.defined() ? all.slice(i, i + 1) : Tensor(); };
    const NoisedClips clip{one(clips.x_t), one(clips.t), one(clips.cond), one(clips.actions), one(clips.drop)};
    const TrainBatch alone{one(batch.x0),    one(batch.cond), one(batch.actions),
                           one(batch.noise), one(batch.t),    one(batch.drop)};
    const Trainee::OwnLoss measured = loss_of({Var(one(out.prediction.value())), {}}, clip, alone);
    const Tensor& loss = measured.loss.value();
    if (!losses.defined()) losses = Tensor::empty({b}, loss.dtype(), device_);
    losses.slice(i, i + 1).copy_from(loss.reshape({1}));
    accuracies.push_back(measured.accuracy);
  }
  const std::vector<double> values = losses.to_doubles();
  for (std::size_t i = 0; i < values.size(); ++i) result.add(1, values[i], accuracies[i]);
  if (out.mask.defined())
    for (std::int64_t i = 0; i < b; ++i) result.add_mask(moments(out.mask.slice(i, i + 1), 0.5), out.mask.numel() / b);
  return result;
}

// Runs the batch again and looks at every value on the way to the loss.
std::string Learner::find_problem(const TrainBatch& batch, double loss) {
  if (!all_finite(batch.x0) || !all_finite(batch.cond)) return "the training clips hold values that are not finite";
  for (const nn::NamedParameter& p : trainee_.module().parameters())
    if (!all_finite(p.var().value())) return fmt::format("weight {} is not finite", p.name);
  std::string problem;
  beside_recording("the search for what was not finite", [&] { problem = problem_of_outputs(batch); });
  if (!problem.empty()) return problem;
  return fmt::format("loss is {}, although every module's output is finite", loss);
}

std::string Learner::problem_of_outputs(const TrainBatch& batch) {
  const NoGrad no_grad;
  const NoisedClips clips = noised(batch);
  const Tensor base = trainee_.base_prediction(clips);
  if (!all_finite(base)) return "the frozen base's prediction is not finite";
  std::string first;
  trainee_.forward(clips, base, [&](std::string_view name, const Tensor& value) {
    if (first.empty() && !all_finite(value)) first = name;
  });
  return first.empty() ? "" : fmt::format("output of {} is not finite", first);
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
