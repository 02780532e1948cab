// train/cli/held_out_clips.h -- the clips that avid evaluate scores every method on
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "tensor/tensor.h"
#include "train/cli/world_model.h"

namespace avid::cli {

/// Windows of `frames` frames behind the model's conditioning frames, read one after the other. size 0: as the model
/// was trained, else as stored.
data::Loader open_windows(
    std::shared_ptr<const data::EpisodeStore> store, const WorldModel& world, std::int64_t frames, std::int64_t size,
    const std::string& resets, std::uint64_t seed);

/// Which clips, from the command line.
struct ClipRequest {
  std::vector<std::string> data;
  std::string resets;     ///< exclude or allow; empty: as in the list, else exclude
  std::string clip_list;  ///< empty: drawn here
  std::int64_t clips = 64, size = 0;
};

/// Held-out clips, the same for every model.
struct HeldOutClips {
  Tensor cond_u8, real_u8;  // [B,K,H,W,3], [B,T,H,W,3]
  Tensor cond;              // [B,K,H,W,3] in [-1,1], on the model's device
  Tensor actions;           // [B,T] i64
  std::string dataset;      // digest of the frames they are from
  std::string list_name, list_hash;
  std::string resets;  // how the windows were drawn
};

/// Windows of `frames` frames behind the model's conditioning frames: those of the list that was given, else drawn by
/// `seed`, the same as `avid clips` would store.
/// Errors   ConfigError for a list of other episodes, lengths or treatment of resets, for more kinds of actions than
///          the model knows, and for a size that the model does not take; FileError.
HeldOutClips read_held_out_clips(
    const ClipRequest& request, const WorldModel& world, std::int64_t frames, std::uint64_t seed);

}  // namespace avid::cli
