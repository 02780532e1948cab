// train/dry_run.cpp -- see dry_run.h
#include "train/dry_run.h"

#include <algorithm>
#include <chrono>

#include "models/cost.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"
#include "train/learner.h"
#include "train/trainer.h"

namespace avid::train {
namespace {

// So many FLOPs make a measurement of a second or so.
constexpr double kMeasureFlops = 60e9;

TrainBatch made_up_clips(const TrainConfig& config, std::int64_t b) {
  const std::int64_t size = config.data.size;
  TrainBatch batch;
  batch.x0 = Tensor::empty({b, config.data.frames, size, size, 3});
  batch.cond = Tensor::empty({b, config.data.cond_frames, size, size, 3});
  batch.noise = Tensor::empty(batch.x0.shape());
  fill_uniform(batch.x0, {1, RngPurpose::test, 0}, -1, 1);
  fill_uniform(batch.cond, {1, RngPurpose::test, 1}, -1, 1);
  fill_normal(batch.noise, {1, RngPurpose::test, 2});
  batch.t = Tensor::full({b}, static_cast<double>(config.diffusion.timesteps / 2), DType::i64);
  if (config.uses_actions()) batch.actions = Tensor::zeros({b, config.data.frames}, DType::i64);
  return batch;
}

}  // namespace

DryRun dry_run(const TrainConfig& config, Device device) {
  const std::unique_ptr<Trainee> trainee = make_trainee(config);
  trainee->place(device, activation_dtype(config));
  LearnerOptions options = learner_options(config);
  options.accumulate = 1;
  Learner learner(*trainee, options);
  const Trainee::Cost cost = trainee->forward_flops({1, config.data.frames, config.data.size, config.data.size});

  DryRun result;
  result.description = trainee->description();
  result.trained_parameters = trainee->module().num_trainable();
  result.frozen_parameters = trainee->frozen_parameters();
  const double per_clip = 3 * cost.trained + cost.frozen;
  result.flops_per_update = per_clip * static_cast<double>(config.train.batch * config.train.accumulate);

  const std::int64_t clips =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(kMeasureFlops / per_clip), 1, config.train.batch);
  const TrainBatch batch = made_up_clips(config, clips);
  const auto pool = [&] { return device.is_gpu() ? device_pool_stats(device) : host_pool_stats(); };
  const auto wait = [&] {  // an update is over when the device has done it
    if (!device.is_gpu()) return;
    on_device(device, "dry run", []<class Backend>(const kernels::Stream& stream) {
      kernels::device_synchronise<Backend>(stream);
    });
  };
  const auto fixed = static_cast<double>(pool().in_use_bytes);
  learner.update(0, [&](std::int64_t) { return batch; });  // memory and kernels warm up
  wait();
  if (device.is_gpu()) {
    reset_device_pool_peak(device);
  } else {
    reset_host_pool_peak();
  }
  const auto start = std::chrono::steady_clock::now();
  learner.update(1, [&](std::int64_t) { return batch; });
  wait();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  result.measured_clips = clips;
  result.measured_gflop_s = per_clip * static_cast<double>(clips) / seconds / 1e9;
  result.seconds_per_update = result.flops_per_update / (result.measured_gflop_s * 1e9);
  result.total_seconds = result.seconds_per_update * static_cast<double>(config.train.updates);
  if (config.train.time_limit_minutes > 0)
    result.total_seconds = std::min(result.total_seconds, config.train.time_limit_minutes * 60);
  const double activations = static_cast<double>(pool().peak_in_use_bytes) - fixed;
  result.memory_bytes = fixed + activations * static_cast<double>(config.train.batch) / static_cast<double>(clips);
  return result;
}

}  // namespace avid::train
