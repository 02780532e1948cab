// train/cli/held_out_clips.cpp -- from a list of windows to frames and actions
#include "train/cli/held_out_clips.h"

#include "eval/clip_list.h"
#include "eval/opponents.h"
#include "train/batches.h"

namespace avid::cli {
namespace {

/// The list that was given, if it fits; without one an empty list of what is to be drawn.
eval::ClipList open_list(
    const ClipRequest& request, const WorldModel& world, const data::EpisodeStore& store, std::int64_t frames,
    std::uint64_t seed) {
  const eval::ClipList wanted{
      .name = "",
      .dataset = eval::dataset_digest(store),
      .context = world.cond_frames(),
      .targets = frames,
      .resets = request.resets.empty() ? "exclude" : request.resets,
      .seed = seed,
      .starts = {}};
  if (request.clip_list.empty()) return wanted;
  eval::ClipList given = eval::load_clip_list(request.clip_list);
  check<ConfigError>(
      given.dataset == wanted.dataset, "{}: made for other episodes than --data holds | make it again with avid clips",
      request.clip_list);
  check<ConfigError>(
      given.context == wanted.context && given.targets == frames,
      "{}: clips of {} + {} frames, the model needs {} + {} | make it again with avid clips --context {} --targets {}",
      request.clip_list, given.context, given.targets, wanted.context, frames, wanted.context, frames);
  check<ConfigError>(
      request.resets.empty() || given.resets == request.resets,
      "{}: drawn with --resets {}, got --resets {} | leave it out", request.clip_list, given.resets, request.resets);
  if (request.clips > 0 && request.clips < static_cast<std::int64_t>(given.starts.size()))
    given.starts.resize(static_cast<std::size_t>(request.clips));
  return given;
}

}  // namespace

data::Loader open_windows(
    std::shared_ptr<const data::EpisodeStore> store, const WorldModel& world, std::int64_t frames, std::int64_t size,
    const std::string& resets, std::uint64_t seed) {
  return data::Loader(
      std::move(store), {.batch = 1,
                         .context = world.cond_frames(),
                         .targets = frames,
                         .size = size != 0 ? size : world.trained_size(),
                         .resets = data::parse_reset_policy(resets),
                         .seed = seed,
                         .workers = 0});
}

HeldOutClips read_held_out_clips(
    const ClipRequest& request, const WorldModel& world, std::int64_t frames, std::uint64_t seed) {
  auto store = std::make_shared<const data::EpisodeStore>(request.data);
  check<ConfigError>(
      !world.uses_actions() || (store->num_actions() > 0 && store->num_actions() <= world.num_actions()),
      "evaluate: data: expected at most {} kinds of actions (the model's), got {}", world.num_actions(),
      store->num_actions());
  eval::ClipList list = open_list(request, world, *store, frames, seed);
  const data::Loader loader = open_windows(store, world, frames, request.size, list.resets, seed);
  world.check_size(loader.height(), loader.width());
  check<ConfigError>(
      !request.clip_list.empty() || request.clips <= loader.sampler().num_windows(),
      "evaluate: --clips: expected at most {}, so many windows of {} frames there are, got {}",
      loader.sampler().num_windows(), world.cond_frames() + frames, request.clips);
  if (request.clip_list.empty()) list.starts = loader.sampler().draw_evaluation(seed, request.clips);
  const data::Batch batch = loader.read_windows(list.starts);
  const std::int64_t k = world.cond_frames();
  return {
      .cond_u8 = eval::take_frames(batch.frames, 0, k),
      .real_u8 = eval::take_frames(batch.frames, k, batch.frames.dim(1)),
      .cond = train::split_clips(batch.frames, k).cond.to(world.device()),
      .actions = batch.actions,
      .dataset = list.dataset,
      .list_name = list.name,
      .list_hash = list.hash(),
      .resets = list.resets};
}

}  // namespace avid::cli
