// train/trainer.cpp -- see trainer.h; the update itself is in learner.cpp
#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"
#include "train/calibration.h"
#include "train/samples.h"

namespace avid::train {
namespace {

double unix_now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

double mib(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

void add_mask(std::vector<std::pair<std::string, double>>& values, const std::string& prefix, const MaskStats& mask) {
  values.emplace_back(prefix + "/mask_mean", mask.mean);
  values.emplace_back(prefix + "/mask_std", mask.std);
  values.emplace_back(prefix + "/mask_min", mask.min);
  values.emplace_back(prefix + "/mask_max", mask.max);
}

bool due(std::int64_t update, std::int64_t every) { return every > 0 && update % every == 0; }

}  // namespace

LearnerOptions learner_options(const TrainConfig& config) {
  LearnerOptions o;
  o.schedule = diffusion::parse_schedule(config.diffusion.schedule);
  o.timesteps = config.diffusion.timesteps;
  o.objective = diffusion::parse_objective(config.diffusion.objective);
  o.loss_weight = diffusion::parse_loss_weight(config.diffusion.loss_weight);
  o.accumulate = config.train.accumulate;
  o.lr = config.train.lr;
  o.warmup = config.train.warmup;
  o.cooldown = config.train.cooldown;
  o.updates = config.train.updates;
  o.clip = config.train.clip;
  o.graph = parse_use_graph(config.train.graph, "config: train.graph");
  o.adam = {config.train.beta1, config.train.beta2, config.train.eps};
  o.ema = {
      config.ema.decay, config.ema.power, config.ema.update_every, config.ema.update_after, config.ema.start_counter};
  return o;
}

DType activation_dtype(const TrainConfig& config) {
  return config.train.precision == "bf16" ? DType::bf16 : DType::f32;
}

std::map<std::string, std::string> input_digests(const TrainConfig& config) {
  std::map<std::string, std::string> digests;
  for (const auto& path : data::find_shards(config.data.train)) {
    const data::ShardInfo shard = data::read_shard_info(path);
    digests["data.train"] += fmt::format("{:016x}{:016x}", shard.frame_checksum, shard.table_checksum);
  }
  digests["data.train"] = sha256_hex(std::as_bytes(std::span(digests["data.train"])));
  if (!config.base.checkpoint.empty()) digests["base.checkpoint"] = base_digest(config.base.checkpoint);
  return digests;
}

Trainer::Trainer(RunFolder& folder, TrainHooks hooks, Device device)
    : folder_(folder), config_(folder.config()), hooks_(std::move(hooks)) {
  folder_.check_inputs(input_digests(config_));
  batches_ = std::make_unique<TrainingBatches>(config_, device);
  if (!config_.data.validation.empty()) validation_ = std::make_unique<ValidationBatches>(config_, device);
  trainee_ = make_trainee(config_);
  trainee_->place(device, activation_dtype(config_));
  learner_ = std::make_unique<Learner>(*trainee_, learner_options(config_));
  state_.fingerprint = config_.fingerprint();
  state_.ema_counter = config_.ema.start_counter;
  if (const auto checkpoint = folder_.checkpoints().latest()) restore(*checkpoint);
  folder_.open_log(state_.update);
}

// Values of both sets travel through the module, which knows names and layouts.
void Trainer::restore(const std::filesystem::path& path) {
  const Checkpoint checkpoint = CheckpointStore::load(path);
  check<ConfigError>(
      checkpoint.state.fingerprint == config_.fingerprint(),
      "run: {}: config.toml was changed since this checkpoint | put the old values back, or start a new run",
      path.string());
  const auto as_map = [](const NamedTensors& tensors) { return nn::TensorMap(tensors.begin(), tensors.end()); };
  nn::Module& module = trainee_->module();
  {
    const Ema::Swapped averaged(learner_->ema());
    module.import_tensors(as_map(checkpoint.ema), (path / "ema.safetensors").string());
  }
  module.import_tensors(as_map(checkpoint.weights), (path / "weights.safetensors").string());
  learner_->ema().set_counter(checkpoint.state.ema_counter, checkpoint.state.ema_initialised);
  learner_->adam().import_moments(
      checkpoint.optimizer, checkpoint.state.optimizer_steps, (path / "optimizer.safetensors").string());
  state_ = checkpoint.state;
  saved_update_ = state_.update;
}

void Trainer::save() {
  if (saved_update_ == state_.update) return;
  state_.optimizer_steps = learner_->adam().num_steps();
  state_.ema_counter = learner_->ema().counter();
  state_.ema_initialised = learner_->ema().initialised();
  Checkpoint checkpoint{state_, trainee_->module().export_tensors(), {}, learner_->adam().export_moments()};
  {
    const Ema::Swapped averaged(learner_->ema());
    checkpoint.ema = trainee_->module().export_tensors();
  }
  std::map<std::string, std::string> metadata{
      {"avid.kind", config_.model.kind},
      {"avid.update", std::to_string(state_.update)},
      {"avid.schedule", config_.diffusion.schedule},
      {"avid.timesteps", std::to_string(config_.diffusion.timesteps)},
      {"avid.objective", config_.diffusion.objective},
      {"avid.frames", std::to_string(config_.data.frames)},
      {"avid.size", std::to_string(config_.data.size)},
      {"avid.config", state_.fingerprint}};
  // What tensors alone do not tell.
  if (config_.is_classifier()) metadata["avid.cond_frames"] = std::to_string(config_.data.cond_frames);
  if (config_.is_controlnet()) metadata["avid.control_order"] = config_.model.control_order;
  if (config_.uses_actions()) metadata["avid.action_drop"] = fmt::format("{:g}", config_.train.action_drop);
  add_training_record(metadata, cost_so_far());
  folder_.checkpoints().save(checkpoint, config_.checkpoint.keep, metadata);
  saved_update_ = state_.update;
  if (state_.update < config_.train.updates) folder_.write_report(state_, trainee_->description());
}

TrainingRecord Trainer::cost_so_far() const {
  TrainingRecord record{.clips = state_.update * config_.train.batch * config_.train.accumulate};
  const Trainee::Cost cost = trainee_->forward_flops({1, config_.data.frames, config_.data.size, config_.data.size});
  record.flop = (3 * cost.trained + cost.frozen) * static_cast<double>(record.clips);
  const auto& runs = batches_->loader().store().runs();
  const auto used = static_cast<std::size_t>(config_.data.levels);
  for (std::size_t i = 0; i < (used == 0 ? runs.size() : std::min(used, runs.size())); ++i)
    record.frames += runs[i].length;
  return record;
}

TrainEnd Trainer::run() {
  using Clock = std::chrono::steady_clock;
  reset_host_pool_peak();
  if (const Device device = trainee_->module().device(); device.is_gpu()) reset_device_pool_peak(device);
  batches_->start(state_.update);
  auto before = Clock::now();
  const auto seconds_since_last = [&before] {
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - before).count();
    before = now;
    return seconds;
  };
  TrainEnd end = TrainEnd::finished;
  while (state_.update < config_.train.updates) {
    if (hooks_.should_stop && hooks_.should_stop()) {
      end = TrainEnd::stopped;
      break;
    }
    if (config_.train.time_limit_minutes > 0 && state_.train_seconds >= config_.train.time_limit_minutes * 60) {
      end = TrainEnd::time_limit;
      break;
    }
    const std::int64_t k = state_.update;
    const UpdateReport report = learner_->update(
        k, [&](std::int64_t i) { return batches_->micro_batch(k, i); },
        [&] {
          if (k + 1 < config_.train.updates) batches_->send_ahead(k + 1);
        });
    const double seconds = seconds_since_last();
    state_.train_seconds += seconds;
    window_seconds_ += seconds;
    ++window_updates_;
    after_update(k, report);

    bool best = false;
    if (due(state_.update, config_.validation.every) && validation_) best = validate();
    if (due(state_.update, config_.samples.every)) write_samples();
    if (best || due(state_.update, config_.checkpoint.every)) save();
    seconds_since_last();  // validation, samples and checkpoints are not training time
  }
  // The last update is validated too, unless the loop has just done so or an earlier process has saved it.
  if (end != TrainEnd::stopped && validation_ && config_.validation.every > 0 && saved_update_ != state_.update &&
      !due(state_.update, config_.validation.every))
    validate();
  save();
  if (end != TrainEnd::stopped && config_.is_classifier() && validation_) write_calibration();
  folder_.write_report(state_, trainee_->description());
  batches_.reset();  // ends its threads
  return end;
}

void Trainer::after_update(std::int64_t k, const UpdateReport& report) {
  state_.update = k + 1;
  if (!report.note.empty() && hooks_.say) hooks_.say(report.note);
  if (report.applied) {
    state_.bad_in_a_row = 0;
    RunState::Window& w = state_.window;
    ++w.updates;
    w.loss += report.loss;
    w.grad_norm += report.grad_norm;
    if (report.mask) {
      w.mask_mean += report.mask->mean;
      w.mask_std += report.mask->std;
      w.mask_min = std::min(w.mask_min, report.mask->min);
      w.mask_max = std::max(w.mask_max, report.mask->max);
    }
    if (report.accuracy) w.accuracy += *report.accuracy;
  } else {
    ++state_.bad_in_a_row;
    ++state_.bad_total;
    folder_.log().append({state_.update, unix_now(), {}, "update skipped: " + report.problem});
    if (hooks_.say) hooks_.say(fmt::format("update {} skipped: {}", state_.update, report.problem));
    check(
        state_.bad_in_a_row < config_.train.max_bad_steps,
        "train: {} updates in a row were not finite, the last one: {} | lower train.lr or train.clip, or go "
        "back: avid train --resume {}",
        state_.bad_in_a_row, report.problem, folder_.path().string());
  }
  if (due(state_.update, config_.log.every)) write_log_line(report);
  if (hooks_.progress) {
    TrainProgress progress{state_.update, config_.train.updates, report, 0, 0, peak_memory_mib()};
    const auto clips = static_cast<double>(config_.train.batch * config_.train.accumulate);
    progress.clips_per_s =
        window_updates_ > 0 ? clips * static_cast<double>(window_updates_) / window_seconds_ : recent_clips_per_s_;
    progress.seconds_left = static_cast<double>(config_.train.updates - state_.update) * clips / progress.clips_per_s;
    if (config_.train.time_limit_minutes > 0)
      progress.seconds_left =
          std::min(progress.seconds_left, config_.train.time_limit_minutes * 60 - state_.train_seconds);
    hooks_.progress(progress);
  }
}

void Trainer::write_log_line(const UpdateReport& report) {
  RunState::Window& w = state_.window;
  LogRecord record{state_.update, unix_now(), {}, {}};
  if (w.updates > 0) {
    const auto n = static_cast<double>(w.updates);
    record.values = {{"train/loss", w.loss / n}, {"train/grad_norm", w.grad_norm / n}, {"train/lr", report.lr}};
    if (report.accuracy) record.values.emplace_back("train/acc", w.accuracy / n);
    if (report.mask) add_mask(record.values, "train", {w.mask_mean / n, w.mask_std / n, w.mask_min, w.mask_max});
  }
  recent_clips_per_s_ = static_cast<double>(window_updates_ * config_.train.batch * config_.train.accumulate) /
                        std::max(window_seconds_, 1e-9);
  record.values.emplace_back("clips_per_s", recent_clips_per_s_);
  record.values.emplace_back("memory_mib", peak_memory_mib());
  folder_.log().append(std::move(record));
  w = {};
  window_seconds_ = 0;
  window_updates_ = 0;
}

bool Trainer::validate() {
  ClipLosses result;
  {
    std::optional<Ema::Swapped> averaged;
    if (config_.uses_average()) averaged.emplace(learner_->ema());
    for (std::int64_t i = 0; i < validation_->num_batches(); ++i) result.add(learner_->evaluate(validation_->batch(i)));
  }
  const double loss = result.loss();
  LogRecord record{state_.update, unix_now(), {{"val/loss", loss}}, {}};
  if (const auto accuracy = result.accuracy()) record.values.emplace_back("val/acc", *accuracy);
  if (const auto mask = result.mask()) add_mask(record.values, "val", *mask);
  folder_.log().append(std::move(record));
  const bool best = std::isfinite(loss) && !(loss >= state_.best_loss);  // true as well when there was none
  if (best) {
    state_.best_loss = loss;
    state_.best_update = state_.update;
  }
  if (hooks_.say)
    hooks_.say(fmt::format("update {}: validation loss {:.5g}{}", state_.update, loss, best ? " (best)" : ""));
  return best;
}

// Of the weights that the run stands for, which may be those of an earlier checkpoint.
void Trainer::write_calibration() {
  const Json record = calibrate(config_, base_weights_path(folder_.path()), *validation_, trainee_->module().device());
  write_text_atomic(folder_.path() / kCalibrationFile, json_text(record, 2) + "\n");
  if (hooks_.say) hooks_.say("held-out clips: " + calibration_text(record["all"]));
}

void Trainer::write_samples() {
  if (!validation_) return;
  const Ema::Swapped averaged(learner_->ema());
  learner_->beside_recording("sampling", [&] {
    write_training_samples(
        folder_.path() / "samples" / fmt::format("step_{:08}", state_.update), config_, *trainee_, learner_->schedule(),
        validation_->clips(config_.samples.clips));
  });
}

double Trainer::peak_memory_mib() const {
  const Device device = trainee_->module().device();
  return mib((device.is_gpu() ? device_pool_stats(device) : host_pool_stats()).peak_in_use_bytes);
}

double Trainer::last_logged(const std::string& name) const {
  const auto& records = folder_.log().records();
  for (auto r = records.rbegin(); r != records.rend(); ++r)
    if (const double v = r->value(name); std::isfinite(v)) return v;
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace avid::train
