// data/clip_export.h -- takes a stretch of frames out of a dataset
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/episode_store.h"
#include "tensor/tensor.h"

namespace avid::data {

/// Consecutive frames of one run with everything recorded about them.
struct Clip {
  std::string game;
  std::int32_t level = 0;
  std::int64_t step = 0;  ///< the first frame's position in its run
  Tensor frames;          ///< u8 [n,H,W,3]
  Tensor actions;         ///< i64 [n] or f32 [n,A]; action t is applied while frame t is visible
  Tensor rewards;         ///< f32 [n]
  Tensor first;           ///< u8 [n]
};

/// Frames [begin, begin + count) in global numbers; ShapeError unless they lie in one run.
Clip read_clip(const EpisodeStore& store, std::int64_t begin, std::int64_t count);
/// The global number of frame `step` of the first run of `level` (of `game`, unless empty); UsageError names what there
/// is.
std::int64_t find_frame(const EpisodeStore& store, const std::string& game, std::int32_t level, std::int64_t step);

/// An .npz with obs, act, rew and first: the original code's names, readable by import_npz() and NumPy.
void save_clip_npz(const std::filesystem::path& path, const Clip& clip);

}  // namespace avid::data
