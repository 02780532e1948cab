// train/dry_run.cpp -- see dry_run.h
#include "train/dry_run.h"

#include <algorithm>
#include <chrono>

#include "diffusion/sampler.h"
#include "models/cost.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"
#include "train/batches.h"
#include "train/learner.h"
#include "train/trainer.h"

namespace avid::train {
namespace {

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

PoolStats pool_of(Device device) { return device.is_gpu() ? device_pool_stats(device) : host_pool_stats(); }

void reset_peak(Device device) { device.is_gpu() ? reset_device_pool_peak(device) : reset_host_pool_peak(); }

// An update is over when the device has done it.
void wait_for(Device device) {
  if (!device.is_gpu()) return;
  on_device(device, "dry run", []<class Backend>(const kernels::Stream& stream) {
    kernels::device_synchronise<Backend>(stream);
  });
}

// The bytes of an update's clips on a device, which are there twice: in use, and on their way.
double travelling_bytes(const TrainConfig& config) {
  const std::int64_t size = config.data.size, frames = config.data.cond_frames + config.data.frames;
  return 2.0 * static_cast<double>(config.train.batch * config.train.accumulate * frames * size * size * 3);
}

#if AVID_HAVE_SIM
class Pretending {
 public:
  Pretending() { kernels::sim_pretend(true); }
  ~Pretending() { kernels::sim_pretend(false); }
  Pretending(const Pretending&) = delete;
  Pretending& operator=(const Pretending&) = delete;
};

struct Counted {
  double peak = 0, graph = 0;
};

Counted counted_memory(const TrainConfig& config) {
  const Device device{DeviceKind::sim, 0};
  const Pretending pretending;
  const std::size_t before = pool_of(device).in_use_bytes;
  reset_peak(device);
  const std::int64_t b = config.train.batch, size = config.data.size;
  // Clips as TrainingBatches holds them: in use, and on their way.
  const Shape all{b * config.train.accumulate, config.data.cond_frames + config.data.frames, size, size, 3};
  const Tensor in_use = Tensor::empty(all, DType::u8, device), on_their_way = Tensor::empty(all, DType::u8, device);
  const std::unique_ptr<Trainee> trainee = make_trainee(config);
  trainee->place(device, activation_dtype(config));
  Learner learner(*trainee, learner_options(config));
  const TrainBatch host = made_up_clips(config, b);
  const auto micro_batch = [&](std::int64_t i) {
    TrainBatch batch = host;
    const SplitClips clips = split_clips(in_use.slice(i * b, (i + 1) * b), config.data.cond_frames);
    batch.x0 = clips.x0;
    batch.cond = clips.cond;
    batch.noise = Tensor::empty(clips.x0.shape(), DType::f32, device);
    return batch;
  };
  // Twice: the first update makes tables and converted weights that the second finds, and the second is recorded.
  for (std::int64_t k = 0; k < 2; ++k) learner.update(k, micro_batch);
  // The recorded update keeps its memory; this comes beside it.
  if (config.validation.every > 0) {
    const Ema::Swapped averaged(learner.ema());
    learner.evaluate(made_up_clips(config, std::min(config.validation_batch(), config.validation.clips)));
  }
  if (config.samples.every > 0 && !config.data.validation.empty()) {
    const Ema::Swapped averaged(learner.ema());
    const TrainBatch clips = made_up_clips(config, std::min(config.samples.clips, config.validation.clips));
    diffusion::SamplerOptions options;
    options.num_steps = 2;  // all steps but the last take the same
    options.eta = config.samples.eta;
    options.batch_clips = config.samples_batch();
    diffusion::sample(
        trainee->denoiser(), learner.schedule(), clips.cond.to(device), clips.actions, config.data.frames, options);
  }
  return {
      static_cast<double>(pool_of(device).peak_in_use_bytes - before),
      static_cast<double>(learner.graph().memory_bytes())};
}
#endif

struct Measured {
  double seconds = 0, peak_bytes = 0;
};

Measured measure(Learner& learner, const TrainConfig& config, Device device, std::int64_t clips, bool graph) {
  const TrainBatch batch = made_up_clips(config, clips);
  const auto update = [&](std::int64_t k) { learner.update(k, [&](std::int64_t) { return batch; }); };
  for (std::int64_t k = 0; k < (graph ? 2 : 1); ++k) update(k);  // memory and kernels warm up
  wait_for(device);
  reset_peak(device);
  const auto start = std::chrono::steady_clock::now();
  update(2);
  wait_for(device);
  return {
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
      static_cast<double>(pool_of(device).peak_in_use_bytes)};
}

}  // namespace

DryRun dry_run(const TrainConfig& config, Device device, double measured_flops) {
  const auto before = static_cast<double>(pool_of(device).in_use_bytes);
  const std::unique_ptr<Trainee> trainee = make_trainee(config);
  const Trainee::Cost cost = trainee->forward_flops({1, config.data.frames, config.data.size, config.data.size});
  DryRun result;
  result.description = trainee->description();
  result.trained_parameters = trainee->module().num_trainable();
  result.frozen_parameters = trainee->frozen_parameters();
  const double per_clip = 3 * cost.trained + cost.frozen;
  result.flops_per_update = per_clip * static_cast<double>(config.train.batch * config.train.accumulate);
#if AVID_HAVE_SIM
  if (device.is_gpu()) {
    const Counted counted = counted_memory(config);
    result.memory_bytes = counted.peak;
    result.graph_bytes = counted.graph;
    result.memory_counted = true;
  }
#endif
  if (device.kind == DeviceKind::sim) return result;

  trainee->place(device, activation_dtype(config));
  LearnerOptions options = learner_options(config);
  options.accumulate =
      std::min<std::int64_t>(options.accumulate, 2);  // the second works beside the gradients of the first
  const double parts = static_cast<double>(options.accumulate);
  const std::int64_t most = config.train.batch, least = config.is_encoder() ? 2 : 1;  // an encoder tells clips apart
  const std::int64_t clips = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(measured_flops / per_clip / parts), std::min(2 * least, most), most);
  const bool graph = options.graph != UseGraph::off && device.is_gpu();
  Learner learner(*trainee, options);
  const Measured large = measure(learner, config, device, clips, graph);
  result.timed = true;
  result.measured_clips = clips;
  result.measured_gflop_s = per_clip * static_cast<double>(clips) * parts / large.seconds / 1e9;
  result.seconds_per_update = result.flops_per_update / (result.measured_gflop_s * 1e9);
  result.total_seconds = result.seconds_per_update * static_cast<double>(config.train.updates);
  if (config.train.time_limit_minutes > 0)
    result.total_seconds = std::min(result.total_seconds, config.train.time_limit_minutes * 60);
  if (result.memory_counted) return result;

  // Part of the peak grows with the clips, part does not.
  double per_more_clip = 0;
  if (const std::int64_t fewer = std::max(least, clips / 2); fewer < clips && clips < most) {
    const Measured small = measure(learner, config, device, fewer, graph);
    per_more_clip = (large.peak_bytes - small.peak_bytes) / static_cast<double>(clips - fewer);
  }
  result.memory_bytes =
      large.peak_bytes - before + per_more_clip * static_cast<double>(most - clips) + travelling_bytes(config);
  return result;
}

}  // namespace avid::train
