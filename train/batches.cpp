// train/batches.cpp -- see batches.h
#include "train/batches.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "tensor/error.h"
#include "tensor/ops/elementwise.h"
#include "tensor/ops/frames.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"

namespace avid::train {
namespace {

std::unique_ptr<data::Loader> make_loader(
    const TrainConfig& config, const std::vector<std::string>& places, const char* key, std::int64_t batch,
    std::int64_t levels) {
  auto store = std::make_shared<const data::EpisodeStore>(places);
  check<ConfigError>(
      !config.uses_actions() || store->action_width() == 0, "config: {}: expected numbered actions, got vectors of {}",
      key, store->action_width());
  check<ConfigError>(
      !config.uses_actions() || config.model.kind == "finetune" || config.is_controlnet() ||
          store->num_actions() <= config.model.actions,
      "config: model.actions: expected at least {} as in {}, got {}", store->num_actions(), key, config.model.actions);
  return std::make_unique<data::Loader>(
      store, data::LoaderOptions{
                 .batch = batch,
                 .context = config.data.cond_frames,
                 .targets = config.data.frames,
                 .size = config.data.size,
                 .resets = data::parse_reset_policy(config.data.resets),
                 .windows = data::parse_window_set(config.data.windows),
                 .runs = levels,
                 .seed = static_cast<std::uint64_t>(config.seed)});
}

}  // namespace

SplitClips split_clips(const Tensor& frames, std::int64_t num_cond) {
  check_dtype(frames, DType::u8, "split_clips", "frames");
  check_rank(frames, 5, "split_clips", "frames");
  const std::int64_t b = frames.dim(0), all = frames.dim(1), h = frames.dim(2), w = frames.dim(3), c = frames.dim(4);
  if (frames.device().is_gpu()) {
    const Tensor values = frames_from_u8(frames);
    return {slice_frames_fwd(values, 0, num_cond), slice_frames_fwd(values, num_cond, all)};
  }
  SplitClips out{Tensor::empty({b, num_cond, h, w, c}), Tensor::empty({b, all - num_cond, h, w, c})};
  const Tensor values = frames_from_u8(frames);
  for (std::int64_t clip = 0; clip < b; ++clip) {
    out.cond.select(clip).copy_from(values.select(clip).slice(0, num_cond));
    out.x0.select(clip).copy_from(values.select(clip).slice(num_cond, all));
  }
  return out;
}

TrainingBatches::TrainingBatches(const TrainConfig& config, Device device)
    : config_(config),
      device_(device),
      loader_(make_loader(
          config, config.data.train, "data.train", config.train.batch * config.train.accumulate, config.data.levels)) {}

void TrainingBatches::start(std::int64_t update) {
  loader_->start(static_cast<std::uint64_t>(update));
  next_update_ = update;
}

data::Batch TrainingBatches::read(std::int64_t update) {
  if (update != next_update_) return loader_->batch_at(static_cast<std::uint64_t>(update));
  ++next_update_;
  return loader_->next();
}

void TrainingBatches::send_ahead(std::int64_t update) {
  if (!device_.is_gpu()) return;
  for (const Clips& clips : clips_)
    if (clips.update == update) return;
  // The older of the two: nobody asks for it any more.
  Clips& clips = clips_[0].update <= clips_[1].update ? clips_[0] : clips_[1];
  clips.update = -1;  // until it is complete
  clips.host = read(update);
  const std::size_t bytes = clips.host.frames.num_bytes();
  on_device(device_, "batches", [&]<class Backend>(const kernels::Stream& stream) {
    if (!clips.upload) {
      clips.frames = Tensor::empty(clips.host.frames.shape(), DType::u8, device_);
      clips.upload = kernels::make_upload<Backend>(stream, bytes);
      clips.upload->last_use();  // of whatever the memory held before
    } else if (!clips.arrived) {
      clips.upload->arrive();  // sent for an update that was never asked for
      clips.upload->last_use();
    }
    std::memcpy(clips.upload->buffer(), clips.host.frames.raw_data(), bytes);
    clips.upload->start(device_mutable_data<std::uint8_t>(clips.frames), bytes);
  });
  clips.arrived = false;
  clips.update = update;
}

TrainingBatches::Clips& TrainingBatches::clips_of(std::int64_t update) {
  if (device_.is_gpu()) {
    send_ahead(update);
  } else if (clips_[0].update != update) {
    clips_[0].host = read(update);
    clips_[0].update = update;
  }
  return clips_[0].update == update ? clips_[0] : clips_[1];
}

SplitClips TrainingBatches::part_of(Clips& clips, std::int64_t first, std::int64_t end) const {
  if (!device_.is_gpu()) return split_clips(clips.host.frames.slice(first, end), config_.data.cond_frames);
  if (!clips.arrived) clips.upload->arrive();
  clips.arrived = true;
  SplitClips split = split_clips(clips.frames.slice(first, end), config_.data.cond_frames);
  clips.upload->last_use();
  return split;
}

TrainBatch TrainingBatches::micro_batch(std::int64_t update, std::int64_t i) {
  Clips& current = clips_of(update);
  const std::int64_t b = config_.train.batch, first = i * b;
  const auto seed = static_cast<std::uint64_t>(config_.seed), step = static_cast<std::uint64_t>(update);
  SplitClips clips = part_of(current, first, first + b);
  TrainBatch batch;
  batch.x0 = clips.x0;
  batch.cond = clips.cond;
  if (config_.uses_actions()) batch.actions = current.host.actions.slice(first, first + b).clone();
  batch.noise = Tensor::empty(batch.x0.shape(), DType::f32, device_);
  fill_normal(
      batch.noise, {seed, RngPurpose::train_noise, step}, static_cast<std::uint64_t>(first * (batch.x0.numel() / b)));
  batch.t = Tensor::empty({b}, DType::i64);
  for (std::int64_t j = 0; j < b; ++j)
    batch.t.data<std::int64_t>()[j] = random_below(
        {seed, RngPurpose::train_timestep, step}, static_cast<std::uint64_t>(first + j),
        static_cast<std::uint32_t>(config_.diffusion.timesteps));
  if (config_.uses_actions() && config_.train.action_drop > 0) {
    batch.drop = Tensor::empty({b}, DType::i64);
    for (std::int64_t j = 0; j < b; ++j)
      batch.drop.data<std::int64_t>()[j] =
          random_uniform({seed, RngPurpose::action_drop, step}, static_cast<std::uint64_t>(first + j)) <
                  config_.train.action_drop
              ? 1
              : 0;
  }
  return batch;
}

ValidationBatches::ValidationBatches(const TrainConfig& config, Device device)
    : config_(config),
      device_(device),
      loader_(make_loader(config, config.data.validation, "data.validation", config.validation_batch(), 0)),
      starts_(loader_->sampler().draw_evaluation(static_cast<std::uint64_t>(config.seed), config.validation.clips)) {}

std::int64_t ValidationBatches::num_batches() const {
  return (num_clips() + config_.validation_batch() - 1) / config_.validation_batch();
}

TrainBatch ValidationBatches::batch(std::int64_t i) const {
  const std::int64_t most = config_.validation_batch(), first = i * most, b = std::min(most, num_clips() - first);
  const auto seed = static_cast<std::uint64_t>(config_.seed);
  const data::Batch clips =
      loader_->read_windows(std::span(starts_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(b)));
  SplitClips split = split_clips(clips.frames, config_.data.cond_frames);
  TrainBatch batch;
  batch.x0 = split.x0;
  batch.cond = split.cond;
  if (config_.uses_actions()) batch.actions = clips.actions;
  batch.noise = Tensor::empty(batch.x0.shape(), DType::f32, device_);
  fill_normal(
      batch.noise, {seed, RngPurpose::eval_noise, 0}, static_cast<std::uint64_t>(first * (batch.x0.numel() / b)));
  batch.t = Tensor::empty({b}, DType::i64);
  // Evenly spread instead of drawn: the weight of a clip varies over nine decades with t.
  for (std::int64_t j = 0; j < b; ++j)
    batch.t.data<std::int64_t>()[j] = (2 * (first + j) + 1) * config_.diffusion.timesteps / (2 * num_clips());
  return batch;
}

data::Batch ValidationBatches::clips(std::int64_t count) const {
  return loader_->read_windows(std::span(starts_).first(static_cast<std::size_t>(std::min(count, num_clips()))));
}

}  // namespace avid::train
