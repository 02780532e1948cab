// data/clip_export.cpp -- clips as tensors and .npz files
#include "data/clip_export.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/io/npz.h"

namespace avid::data {

Clip read_clip(const EpisodeStore& store, std::int64_t begin, std::int64_t count) {
  const auto& runs = store.runs();
  const auto after =
      std::upper_bound(runs.begin(), runs.end(), begin, [](std::int64_t f, const Run& r) { return f < r.begin; });
  check<ShapeError>(
      begin >= 0 && begin < store.num_frames(), "clip: first frame: expected 0..{}, got {}", store.num_frames() - 1,
      begin);
  const Run& run = *(after - 1);
  const std::int64_t available = run.begin + run.length - begin;
  check<ShapeError>(
      count >= 1 && count <= available, "clip: frames: expected 1..{} (level {} ends there), got {}", available,
      run.level, count);
  Clip clip;
  clip.game = store.shards()[static_cast<std::size_t>(run.shard)].meta.game;
  clip.level = run.level;
  clip.step = begin - run.begin;
  clip.frames = Tensor::empty({count, store.height(), store.width(), 3}, DType::u8);  // [n,H,W,3]
  store.read_frames(
      begin, count, {clip.frames.data<std::uint8_t>(), static_cast<std::size_t>(count) * store.frame_bytes()});
  clip.rewards = Tensor::zeros({count}, DType::f32);
  clip.first = Tensor::zeros({count}, DType::u8);
  const std::int64_t A = store.action_width();
  clip.actions = A == 0 ? Tensor::zeros({count}, DType::i64) : Tensor::zeros({count, A}, DType::f32);
  for (std::int64_t t = 0; t < count; ++t) {
    clip.rewards.data<float>()[t] = store.reward(begin + t);
    clip.first.data<std::uint8_t>()[t] = store.first(begin + t);
    if (A == 0) {
      clip.actions.data<std::int64_t>()[t] = store.action(begin + t);
    } else {
      const auto values = store.action_vector(begin + t);
      std::copy(values.begin(), values.end(), clip.actions.data<float>() + t * clip.actions.pitch());
    }
  }
  return clip;
}

std::int64_t find_frame(const EpisodeStore& store, const std::string& game, std::int32_t level, std::int64_t step) {
  std::int32_t lowest = store.runs().front().level, highest = lowest;
  for (const Run& run : store.runs()) {
    lowest = std::min(lowest, run.level);
    highest = std::max(highest, run.level);
    if (run.level != level || (!game.empty() && store.shards()[static_cast<std::size_t>(run.shard)].meta.game != game))
      continue;
    check<UsageError>(
        step >= 0 && step < run.length, "clip: step: expected 0..{} in level {}, got {}", run.length - 1, level, step);
    return run.begin + step;
  }
  fail<UsageError>(
      "clip: level: this dataset has no level {}{}{} | its levels lie in {}..{}", level, game.empty() ? "" : " of ",
      game, lowest, highest);
}

void save_clip_npz(const std::filesystem::path& path, const Clip& clip) {
  save_npz(path, {{"obs", clip.frames}, {"act", clip.actions}, {"rew", clip.rewards}, {"first", clip.first}}, true);
}

}  // namespace avid::data
