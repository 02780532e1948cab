// train/samples.cpp -- see samples.h
#include "train/samples.h"

#include "data/games.h"
#include "diffusion/sampler.h"
#include "eval/media/gif.h"
#include "eval/media/png.h"
#include "eval/media/strip.h"
#include "tensor/error.h"
#include "tensor/ops/frames.h"
#include "train/batches.h"

namespace avid::train {

void write_training_samples(
    const std::filesystem::path& folder, const TrainConfig& config, Trainee& trainee,
    const diffusion::Schedule& schedule, const data::Batch& clips) {
  const Tensor cond_frames = split_clips(clips.frames, config.data.cond_frames).cond.to(trainee.module().device());
  const Tensor actions = config.uses_actions() ? clips.actions : Tensor();
  diffusion::SamplerOptions options;
  options.num_steps = config.samples.steps;
  options.eta = config.samples.eta;
  options.seed = static_cast<std::uint64_t>(config.seed);
  options.batch_clips = config.samples_batch();
  const std::int64_t num_frames = config.data.frames;
  Tensor mask;  // u8 [B,T,H,W,1]
  options.on_step = [&](const diffusion::StepReport& step) {
    if (!step.mask.defined() || step.index + 1 != step.num_steps) return;
    const Tensor levels = eval::mask_to_u8(step.mask.to(Device()));
    if (!mask.defined()) mask = Tensor::empty({step.num_clips, num_frames, levels.dim(2), levels.dim(3), 1}, DType::u8);
    Tensor part = mask.slice(step.first_clip, step.first_clip + levels.dim(0));
    part.copy_from(levels);
  };
  const Tensor made =
      diffusion::sample(trainee.denoiser(), schedule, cond_frames, actions, num_frames, options).to(Device());
  options.on_step = {};
  Tensor base;
  if (trainee.base_denoiser() != nullptr)
    base = diffusion::sample(*trainee.base_denoiser(), schedule, cond_frames, {}, num_frames, options).to(Device());

  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check<FileError>(!error, "samples: {}: {} | check the folder", folder.string(), error.message());
  for (std::int64_t i = 0; i < clips.frames.dim(0); ++i) {
    const Tensor clip = clips.frames.select(i);  // [K+T,H,W,3]
    const Tensor cond = clip.slice(0, config.data.cond_frames);
    std::vector<eval::ClipRow> rows = {{"real", cond, clip.slice(config.data.cond_frames, clip.dim(0))}};
    if (base.defined()) rows.push_back({"base", cond, frames_to_u8(base.select(i))});
    rows.push_back({config.is_avid() ? "avid" : "model", cond, frames_to_u8(made.select(i))});
    if (mask.defined()) rows.push_back({"mask", {}, mask.select(i)});
    eval::StripOptions strip;
    strip.scale = config.data.size <= 32 ? 3 : 2;
    strip.num_cond = config.data.cond_frames;
    if (config.uses_actions())
      for (std::int64_t f = 0; f < num_frames; ++f)
        strip.actions.push_back(eval::action_caption(
            std::string(data::action_name(static_cast<int>(clips.actions.data<std::int64_t>()[i * num_frames + f])))));
    const std::string name = fmt::format("clip_{:02}", i);
    eval::write_png(folder / (name + ".png"), eval::draw_strip(rows, strip));
    eval::write_gif(folder / (name + ".gif"), eval::draw_animation(rows, strip));
  }
}

}  // namespace avid::train
